//! Policies that are wrong, slow or hostile, and the default one.

mod calls;
mod contracts;
mod hostile;
mod load;
mod observer;
mod sync;

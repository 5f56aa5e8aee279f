//! Policies that are wrong, slow or hostile, and the default one.

mod calls;
mod contracts;
mod hostile;
mod load;
mod native;
mod observer;
mod sync;

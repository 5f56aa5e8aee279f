//! Policies that are wrong, slow or hostile, and the default one.

mod calls;
mod hostile;
mod load;
mod observer;
mod sync;

//! The program itself, in clusters of three: how it stops when it is told to, and what is left when it dies.

mod cluster;
#[cfg(debug_assertions)]
mod kill;
#[cfg(debug_assertions)]
mod load;
mod stop;
mod waits;

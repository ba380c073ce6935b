//! Owner: fill this in.

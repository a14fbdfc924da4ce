//! A lock-free change log for realtime sync servers.
mod sync;
mod wait;

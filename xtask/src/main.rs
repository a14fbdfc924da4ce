//! The daily verbs.
fn main() {}

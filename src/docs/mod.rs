#![forbid(unsafe_code)]
//! Guarantees, limitations, internals and proof: prose whose code is compiled and run.

// The link definitions precede each text, since the first definition of a link wins. Read as files,
// the links lead to files; here, they lead to modules.

/// [guarantees]: crate::docs::guarantees
/// [internals]: crate::docs::internals
/// [limitations]: crate::docs::limitations
/// [proof]: crate::docs::proof
///
#[doc = include_str!("guarantees.md")]
pub mod guarantees {}

/// [guarantees]: crate::docs::guarantees
/// [internals]: crate::docs::internals
/// [limitations]: crate::docs::limitations
/// [proof]: crate::docs::proof
///
#[doc = include_str!("internals.md")]
pub mod internals {}

/// [guarantees]: crate::docs::guarantees
/// [internals]: crate::docs::internals
/// [limitations]: crate::docs::limitations
/// [proof]: crate::docs::proof
///
#[doc = include_str!("limitations.md")]
pub mod limitations {}

/// [guarantees]: crate::docs::guarantees
/// [internals]: crate::docs::internals
/// [limitations]: crate::docs::limitations
/// [proof]: crate::docs::proof
///
#[doc = include_str!("proof.md")]
pub mod proof {}

#![forbid(unsafe_code)]
//! What ringlog promises, how it works, what it costs and what it cannot do: prose, with code that is compiled and run.

// The link definitions stand before each text: the first one counts. In the files, read as they are, the links lead to
// files; here, to modules.

/// [guarantees]: crate::docs::guarantees
/// [internals]: crate::docs::internals
/// [limitations]: crate::docs::limitations
/// [performance]: crate::docs::performance
/// [proof]: crate::docs::proof
///
#[doc = include_str!("guarantees.md")]
pub mod guarantees {}

/// [guarantees]: crate::docs::guarantees
/// [internals]: crate::docs::internals
/// [limitations]: crate::docs::limitations
/// [performance]: crate::docs::performance
/// [proof]: crate::docs::proof
///
#[doc = include_str!("internals.md")]
pub mod internals {}

/// [guarantees]: crate::docs::guarantees
/// [internals]: crate::docs::internals
/// [limitations]: crate::docs::limitations
/// [performance]: crate::docs::performance
/// [proof]: crate::docs::proof
///
#[doc = include_str!("performance.md")]
pub mod performance {}

/// [guarantees]: crate::docs::guarantees
/// [internals]: crate::docs::internals
/// [limitations]: crate::docs::limitations
/// [performance]: crate::docs::performance
/// [proof]: crate::docs::proof
///
#[doc = include_str!("limitations.md")]
pub mod limitations {}

/// [guarantees]: crate::docs::guarantees
/// [internals]: crate::docs::internals
/// [limitations]: crate::docs::limitations
/// [performance]: crate::docs::performance
/// [proof]: crate::docs::proof
///
#[doc = include_str!("proof.md")]
pub mod proof {}

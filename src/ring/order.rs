#![forbid(unsafe_code)]
//! The orderings of the essay's barrier table, by name. `A` is the earlier end, `B` the later.

use crate::sync::Ordering;

pub(super) const PUBLISH_A: Ordering = Ordering::Release;
pub(super) const PUBLISH_B: Ordering = Ordering::Acquire;
pub(super) const INSTALL_A: Ordering = Ordering::Release;
pub(super) const INSTALL_B: Ordering = Ordering::Acquire;
pub(super) const ANNOUNCE_A: Ordering = Ordering::AcqRel;
pub(super) const ANNOUNCE_B: Ordering = Ordering::AcqRel;
pub(super) const ENTER_A: Ordering = Ordering::Release;
pub(super) const LEAVE_A: Ordering = Ordering::Release;
pub(super) const LEAVE_B: Ordering = Ordering::Acquire;
pub(super) const REGISTER_A: Ordering = Ordering::Release;
pub(super) const REGISTER_B: Ordering = Ordering::Acquire;
pub(super) const VACATE_A: Ordering = Ordering::Release;
pub(super) const VACATE_B: Ordering = Ordering::Acquire;
pub(super) const POOL_A: Ordering = Ordering::Release;
pub(super) const POOL_B: Ordering = Ordering::Acquire;
pub(super) const MEMO_A: Ordering = Ordering::Release;
pub(super) const MEMO_B: Ordering = Ordering::Acquire;
pub(super) const FLOOR_A: Ordering = Ordering::Release;
pub(super) const FLOOR_B: Ordering = Ordering::Acquire;
pub(super) const REAP_A: Ordering = Ordering::Release;
pub(super) const REAP_B: Ordering = Ordering::Acquire;

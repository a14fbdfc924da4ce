//! `cargo xtask faults`: a check that cannot fail proves nothing, so each model is shown to fail.
//!
//! The sources hold small faults behind `cfg(ringlog_fault = "name")`, which no release build sets. For each,
//! the models are built with that fault alone, and the model of the table below must fail on it.

use crate::{loom, shell};
use shell::Outcome;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Each fault of the sources, and the model that must catch it. A row per `ringlog_fault` in `src/`, no more
/// and no less: [`complete`] compares.
const FAULTS: &[(&str, &str)] = &[
    ("claim_not_atomic", "ring_models::two_writers_and_a_reader"),
    ("publish_a_relaxed", "ring_models::two_writers_and_a_reader"),
    ("publish_b_relaxed", "ring_models::two_writers_and_a_reader"),
    ("stamp_before_record", "ring_models::two_writers_and_a_reader"),
    ("install_a_relaxed", "ring_models::racing_installation"),
    ("install_b_relaxed", "ring_models::racing_installation"),
    ("publish_front_to_back", "ring_models::a_batch_is_whole"),
    ("late_writer_installs", "ring_models::a_lapped_late_writer"),
    ("reclaim_at_once", "ring_models::a_reader_against_a_lap"),
    ("seats_unseen", "ring_models::a_late_writer_on_its_seat"),
    ("enter_a_relaxed", "ring_models::a_late_writer_on_its_seat"),
    ("leave_a_relaxed", "ring_models::a_late_writer_on_its_seat"),
    ("leave_b_relaxed", "ring_models::a_late_writer_on_its_seat"),
    ("announce_a_relaxed", "ring_models::a_writer_that_only_looks"),
    ("announce_b_relaxed", "ring_models::a_writer_that_only_looks"),
    ("row_a_relaxed", "ring_models::a_seat_changes_hands"),
    ("row_b_relaxed", "ring_models::a_seat_changes_hands"),
    ("vacate_a_relaxed", "ring_models::a_seat_changes_hands"),
    ("vacate_b_relaxed", "ring_models::a_seat_changes_hands"),
    ("pool_a_relaxed", "ring_models::a_pooled_segment_changes_hands"),
    ("pool_b_relaxed", "ring_models::a_pooled_segment_changes_hands"),
    ("read_unpinned", "ring_models::a_reader_against_a_lap"),
    ("lay_out_after_claim", "ring_models::a_refused_change_leaves_no_gap"),
    ("superseded_not_atomic", "ring_models::the_books_balance"),
    ("leave_block", "ring_models::a_block_changes_hands"),
    ("spill_unsaid", "ring_models::a_block_changes_hands"),
    ("settle_a_relaxed", "ring_models::what_head_promises_can_be_read"),
    ("settle_b_relaxed", "ring_models::what_head_promises_can_be_read"),
    ("too_few_segments", "ring_models::the_window_is_there"),
    ("base_unchecked", "ring_models::a_lapped_append"),
    ("count_publish_fence", "ring_models::each_publish_is_counted"),
    ("count_look_fence", "ring_models::each_publish_is_counted"),
    ("count_once", "ring_models::each_publish_is_counted"),
    ("floor_a_relaxed", "ring_models::the_window_starts_before_it_ends"),
    ("floor_b_relaxed", "ring_models::the_window_starts_before_it_ends"),
    ("reap_hand_fence", "ring_models::two_floors_come_back_at_once"),
    ("reap_look_fence", "ring_models::two_floors_come_back_at_once"),
    ("reap_once", "ring_models::two_floors_come_back_at_once"),
    ("reap_at_once", "ring_models::an_evicted_block_against_its_reader"),
    ("place_after_stamp", "ring_models::an_evicted_block_against_its_reader"),
    ("wait_light_fence", "wait_models::a_waiter_and_a_publisher"),
    ("wait_look_fence", "wait_models::two_waiters_and_the_baton"),
    ("wait_check_again", "wait_models::a_waiter_and_a_publisher"),
    ("wait_baton", "wait_models::a_cancelled_waiter_passes_the_baton_on"),
    ("wait_leave_unlocked", "wait_models::two_waiters_for_two_seqs"),
    ("wait_hand_off", "wait_models::who_held_the_lock_in_vain_looks_again"),
    // Loom's fences are all full ones: this is a litmus test on real threads, among the library's own tests.
    ("wait_heavy_fence", "wait::tests::a_waiter_that_ends_an_idle_state_misses_no_publish"),
    ("wait_close_unseen", "wait_models::a_close_ends_a_wait"),
    ("wait_close_at_head", "wait_models::what_was_appended_before_the_close_is_waited_for"),
    ("wait_close_baton", "wait_models::a_closer_wakes_for_the_publisher"),
    ("fill_relaxed", "dedup_models::two_claims_on_one_id"),
    ("commit_unchecked", "dedup_models::two_claims_on_one_id"),
    ("fill_after_split", "dedup_models::two_claims_and_one_vacant_slot"),
    ("lazy_a_relaxed", "dedup_models::two_first_claims"),
    ("lazy_blindly", "dedup_models::two_first_claims"),
    ("lazy_b_relaxed", "dedup_models::two_claims_across_a_split"),
    ("complete_relaxed", "dedup_models::complete_against_look_up"),
    ("bloom_after_complete", "dedup_models::complete_against_look_up"),
    ("vacate_blindly", "dedup_models::forget_against_claim"),
    ("bloom_relaxed", "dedup_models::rotation_against_a_completed_id"),
    ("bloom_goes_back", "dedup_models::a_late_completer_against_rotation"),
    ("window_too_long", "dedup_models::a_late_completer_against_rotation"),
    ("expire_in_flight", "dedup_models::expiry_against_what_is_in_flight"),
    ("order_evicts_the_younger", "dedup_models::expiry_against_what_is_in_flight"),
    ("bloom_late_relaxed", "dedup_models::a_late_completer_against_rotation"),
    ("remember_in_flight", "dedup_models::two_remember_one_id"),
    ("rely_unsaid", "dedup_models::one_remembers_what_another_is_remembering"),
    ("rely_without_bits", "dedup_models::a_claim_relies_on_what_another_is_remembering"),
    ("slot_a_relaxed", "dedup_models::a_slot_changes_hands"),
    ("slot_c_relaxed", "dedup_models::a_slot_changes_hands"),
    ("slot_e_relaxed", "dedup_models::forget_against_claim"),
    ("slot_counts_twice", "dedup_models::a_slot_changes_hands"),
];

/// What a model may take. A model that runs longer has hung, and has caught nothing.
const LIMIT: Duration = Duration::from_secs(600);

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let filter = match args {
        [] => "",
        [filter] if !filter.starts_with('-') => filter,
        _ => return Err("faults takes at most one FILTER".into()),
    };
    complete()?;
    let rows: Vec<_> = FAULTS.iter().filter(|(fault, _)| fault.contains(filter)).collect();
    if rows.is_empty() && !filter.is_empty() {
        return Err(format!("no fault's name holds `{filter}`"));
    }
    sound(&rows.iter().map(|(_, model)| *model).collect())?;
    catch(&rows)
}

/// All faults, right after the models have passed without any: they need not do so again.
pub(crate) fn after_the_models() -> Result<(), String> {
    complete()?;
    catch(&FAULTS.iter().collect::<Vec<_>>())
}

/// Breaks the code in each of these ways, and sees the model fail.
fn catch(rows: &[&(&str, &str)]) -> Result<(), String> {
    let mut caught = 0;
    for (fault, model) in rows {
        let models = build(Some(fault), model)?;
        let start = Instant::now();
        let (verdict, counts) = match run_model(&models, model)? {
            Outcome::Failed => ("caught", 1),
            Outcome::Succeeded => ("MISSED: the model passed", 0),
            Outcome::Hung => ("MISSED: the model hung", 0),
        };
        caught += counts;
        println!("  {fault:<28} {model:<56} {verdict} in {:.1} s", start.elapsed().as_secs_f64());
    }
    println!("{caught} of {} faults caught", rows.len());
    if caught == rows.len() { Ok(()) } else { Err("a fault went through: see above".into()) }
}

/// Checks that the models pass on the code as it is, else their failing on a fault would mean nothing.
fn sound(names: &BTreeSet<&str>) -> Result<(), String> {
    if names.is_empty() {
        return Ok(());
    }
    for name in names {
        let models = build(None, name)?;
        let start = Instant::now();
        match run_model(&models, name)? {
            Outcome::Succeeded => {}
            Outcome::Failed => {
                return Err(format!("{name} fails without any fault: see {}", log().display()));
            }
            Outcome::Hung => return Err(format!("{name} hangs without any fault")),
        }
        println!("  {:<28} {name:<56} passes in {:.1} s", "(no fault)", start.elapsed().as_secs_f64());
    }
    Ok(())
}

/// Builds the program that has this test, with a fault or without, and says where the program lies: the models, or the
/// library's own tests.
///
/// Only the crate itself is compiled again: the flag is given to it alone.
fn build(fault: Option<&str>, test: &str) -> Result<PathBuf, String> {
    let is_model = test.contains("_models::");
    let package = if is_model { "bench --package loom-tests" } else { "test --package ringlog" };
    let words = format!("rustc --quiet --profile {package} --lib --message-format json-render-diagnostics");
    let mut cargo = shell::cargo(&words);
    if is_model {
        cargo = loom::with_loom(cargo);
    }
    if let Some(fault) = fault {
        // Nearly all of them fail at once: what takes long is to build them.
        cargo.args(["--", "-C", "opt-level=1", "-C", "debuginfo=0"]);
        cargo.args(["--cfg", &format!("ringlog_fault=\"{fault}\"")]);
    }
    shell::program(&mut cargo, if is_model { "loom_tests" } else { "ringlog" })
        .map_err(|error| format!("the tests with the fault {fault:?}: {error}"))
}

/// Runs one model, which must be there under exactly this name.
fn run_model(models: &Path, name: &str) -> Result<Outcome, String> {
    let list = Command::new(models).args([name, "--exact", "--list"]).output();
    let list = list.map_err(|error| format!("{}: {error}", models.display()))?.stdout;
    if !String::from_utf8_lossy(&list).lines().any(|line| line == format!("{name}: test")) {
        return Err(format!("there is no model `{name}`"));
    }
    let mut command = Command::new(models);
    command.args([name, "--exact"]).stdin(Stdio::null());
    shell::run_within(&mut command, LIMIT, &log())
}

/// What the last model printed.
fn log() -> PathBuf {
    loom::target().join("last-model.log")
}

/// Checks that the table, the sources and the page that shows the table name the same faults.
fn complete() -> Result<(), String> {
    let table: BTreeSet<String> = FAULTS.iter().map(|(fault, _)| (*fault).to_string()).collect();
    let mut sources = BTreeSet::new();
    collect(&shell::root().join("src"), &mut sources)?;
    if let Some(fault) = sources.difference(&table).next() {
        return Err(format!("the fault `{fault}` of src/ has no row in xtask/src/faults.rs"));
    }
    if let Some(fault) = table.difference(&sources).next() {
        return Err(format!("the fault `{fault}` of xtask/src/faults.rs is nowhere in src/"));
    }
    let page = "src/docs/proof.md";
    let text = fs::read_to_string(shell::root().join(page)).map_err(|error| format!("{page}: {error}"))?;
    let named = |(fault, model): &&(&str, &str)| {
        let model = model.rsplit(':').next().unwrap_or(model);
        text.lines().any(|line| {
            line.starts_with(&format!("| `{fault}` |")) && line.ends_with(&format!("| `{model}` |"))
        })
    };
    match FAULTS.iter().find(|row| !named(row)) {
        Some((fault, _)) => Err(format!("{page} has no row for the fault `{fault}`, with its model")),
        None => Ok(()),
    }
}

/// Collects the names that follow `ringlog_fault = ` in the sources.
fn collect(folder: &Path, names: &mut BTreeSet<String>) -> Result<(), String> {
    let io = |error| format!("{}: {error}", folder.display());
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.is_dir() {
            collect(&path, names)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).map_err(io)?;
            let uses = text.split("ringlog_fault = \"").skip(1);
            names.extend(uses.filter_map(|rest| rest.split('"').next()).map(String::from));
        }
    }
    Ok(())
}

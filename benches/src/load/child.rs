//! Each run in a process of its own, with a limit of time: a contender that hangs takes none with
//! it.

use super::args::{Load, PeerName};
use super::outcome::Outcome;
use super::run::run;
use crate::Result;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use std::io::Write as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What a child is asked to do.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    /// The contender.
    pub peer: PeerName,
    /// Under which load.
    pub load: Load,
}

/// How the runs of a contender ended.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// All that was offered was taken, and read or told lost.
    Done(Box<Outcome>),
    /// It was killed after so many seconds.
    Hung(f64),
    /// It broke a promise, or could not run; what it said of it.
    Failed(String),
}

/// The child's side: a job from standard input, its outcome to standard output.
pub(super) fn serve() -> Result<()> {
    let job: Job = serde_json::from_reader(std::io::stdin().lock())?;
    let outcome = run(job.peer, &job.load)?;
    serde_json::to_writer(std::io::stdout().lock(), &outcome)?;
    Ok(())
}

/// Each contender in turn, so many times. One that fails has no further turn.
///
/// # Errors
/// If a child cannot be started.
pub fn in_turns(
    load: &Load,
    contenders: &[PeerName],
    turns: u32,
    label: &str,
) -> Result<Vec<(PeerName, Ended)>> {
    let runs = u64::from(turns) * contenders.len() as u64;
    let each = load.duration.as_millis() as u64;
    // Draws nothing unless standard error is a terminal.
    let bar = ProgressBar::new(runs * each);
    bar.set_style(ProgressStyle::with_template("{msg:<24} {wide_bar} {elapsed} of {duration}")?);
    let mut all: Vec<(PeerName, Option<Ended>)> = contenders.iter().map(|&name| (name, None)).collect();
    for turn in 0..turns as usize {
        for place in 0..all.len() {
            let place = (turn + place) % all.len();
            let (name, so_far) = &mut all[place];
            if matches!(so_far, None | Some(Ended::Done(_))) {
                bar.set_message(format!("{label}{}", name.as_str()));
                let ended = one(&Job { peer: *name, load: load.clone() }, &bar)?;
                put_together(so_far, ended);
            }
        }
    }
    bar.finish_and_clear();
    Ok(all.into_iter().filter_map(|(name, ended)| Some((name, ended?))).collect())
}

fn put_together(so_far: &mut Option<Ended>, ended: Ended) {
    match (so_far.as_mut(), ended) {
        (Some(Ended::Done(sum)), Ended::Done(more)) => sum.add(&more),
        (_, ended) => *so_far = Some(ended),
    }
}

/// How long a job may take: the writers may be as far behind as they wrote, and filling the window
/// takes time too.
fn limit(load: &Load) -> Duration {
    3 * load.duration + Duration::from_secs(10) + Duration::from_micros(20 * load.window)
}

fn one(job: &Job, bar: &ProgressBar) -> Result<Ended> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("--child")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start a process for {}: {error}", job.peer.as_str()))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(&serde_json::to_vec(job)?)?;
    }
    // They are read while the child runs: a full pipe would stop it.
    let (said, complained) = (reading(child.stdout.take()), reading(child.stderr.take()));
    let from = bar.position();
    let (start, limit) = (Instant::now(), limit(&job.load));
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if start.elapsed() > limit {
            break None;
        }
        bar.set_position(from + start.elapsed().min(job.load.duration).as_millis() as u64);
        thread::sleep(Duration::from_millis(10));
    };
    bar.set_position(from + job.load.duration.as_millis() as u64);
    let Some(status) = status else {
        kill(&mut child)?;
        return Ok(Ended::Hung(limit.as_secs_f64()));
    };
    let [said, complained] = [said, complained].map(|reader| reader.join().unwrap_or_default());
    Ok(judge(status, &said, &complained))
}

fn kill(child: &mut Child) -> Result<()> {
    child.kill()?;
    child.wait()?;
    Ok(())
}

fn reading(pipe: Option<impl std::io::Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What came before an error is all there is to show.
            let _complete = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

fn judge(status: ExitStatus, said: &[u8], complained: &[u8]) -> Ended {
    let complaint = || format!("{status}: {}", String::from_utf8_lossy(complained).trim());
    if !status.success() {
        return Ended::Failed(complaint());
    }
    match serde_json::from_slice(said) {
        Ok(outcome) => Ended::Done(Box::new(outcome)),
        Err(error) => Ended::Failed(format!("{error}; {}", complaint())),
    }
}

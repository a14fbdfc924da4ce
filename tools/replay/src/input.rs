//! Push requests from newline-delimited JSON, plain or gzipped.
//!
//! Each line is one [`PushRequest`]. Blank lines are skipped and counted. Whatever else is wrong
//! stops the reading with a message that names the line and, where there is one, the field.

use crate::Result;
use flate2::bufread::MultiGzDecoder;
use ringlog::{ChangeKind, PushRequest};
use serde_json::value::{RawValue, to_raw_value};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// The longest line that is read. A file without newlines is a mistake, not a request.
const MAX_LINE: u64 = 64 << 20;

/// One change, with its data as the JSON text that goes into the log.
#[derive(Debug)]
pub struct Op {
    /// Of the row.
    pub entity: String,
    /// Of the row, unique in its entity.
    pub row_id: String,
    /// What happened to the row.
    pub kind: ChangeKind,
    /// The row's data afterwards.
    pub data: Option<Box<RawValue>>,
}

impl Op {
    /// The JSON text of the data, if there is any.
    pub fn text(&self) -> Option<&str> {
        self.data.as_deref().map(RawValue::get)
    }

    /// The bytes a log must keep for it: entity, row id and JSON text.
    pub fn bytes(&self) -> u64 {
        let text = self.text().map_or(0, str::len);
        (self.entity.len() + self.row_id.len() + text) as u64
    }
}

/// The changes of one push request, in order.
pub type Request = Vec<Op>;

/// What is to be replayed.
#[derive(Debug)]
pub struct Input {
    /// Where it comes from, for the report.
    pub source: String,
    /// The requests that hold at least one change.
    pub requests: Vec<Request>,
    /// What was passed over: blank lines and requests (or commits) without changes.
    pub skipped: u64,
}

impl Input {
    /// Starts an input with nothing in it.
    pub fn new(source: impl Into<String>) -> Self {
        Self { source: source.into(), requests: Vec::new(), skipped: 0 }
    }

    /// Adds a request, its data turned into text.
    ///
    /// # Errors
    /// If data cannot be written as JSON.
    pub fn add(&mut self, request: PushRequest) -> Result<()> {
        let mut ops = Vec::with_capacity(request.changes.len());
        for change in request.changes {
            let data = change.data.as_ref().map(to_raw_value).transpose()?;
            ops.push(Op { entity: change.entity, row_id: change.row_id, kind: change.kind, data });
        }
        if ops.is_empty() {
            self.skipped += 1;
        } else {
            self.requests.push(ops);
        }
        Ok(())
    }

    /// All changes, in order.
    pub fn ops(&self) -> impl Iterator<Item = &Op> {
        self.requests.iter().flatten()
    }
}

/// Reads a file, or standard input if the path is `-`.
///
/// # Errors
/// If the file cannot be read, or at the first line that is no request: which, and what is wrong.
pub fn open(path: &Path) -> Result<Input> {
    if path == Path::new("-") {
        return read("standard input", io::stdin().lock());
    }
    let source = path.display().to_string();
    let file = File::open(path).map_err(|e| format!("{source}: {e}"))?;
    read(&source, file)
}

/// Reads newline-delimited push requests; gzip is recognised by its first two bytes.
///
/// # Errors
/// At the first line that is no request: which, and what is wrong.
pub fn read(source: &str, mut bytes: impl Read) -> Result<Input> {
    let mut magic = Vec::new();
    bytes.by_ref().take(2).read_to_end(&mut magic).map_err(|e| format!("{source}: {e}"))?;
    let gzipped = magic == [0x1f, 0x8b];
    let bytes = BufReader::new(io::Cursor::new(magic).chain(bytes));
    let input = if gzipped {
        read_lines(source, BufReader::new(MultiGzDecoder::new(bytes)))
    } else {
        read_lines(source, bytes)
    }?;
    if input.requests.is_empty() {
        return Err(format!("{source}: no changes in it, nothing to replay").into());
    }
    Ok(input)
}

fn read_lines(source: &str, mut lines: impl BufRead) -> Result<Input> {
    let mut input = Input::new(source);
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        let length = lines.by_ref().take(MAX_LINE + 1).read_until(b'\n', &mut line);
        let length = length.map_err(|e| format!("{source} breaks off in line {number}: {e}"))?;
        if length == 0 {
            break;
        }
        if length as u64 > MAX_LINE {
            return Err(format!("{source}:{number}: the line is longer than {MAX_LINE} bytes").into());
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            input.skipped += 1;
            continue;
        }
        let request = parse(&line).map_err(|e| format!("{source}:{number}: {e}"))?;
        input.add(request)?;
    }
    Ok(input)
}

/// Parses one line; the error says where in the request it is, and what.
fn parse(line: &[u8]) -> Result<PushRequest, String> {
    let mut json = serde_json::Deserializer::from_slice(line);
    let request = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = error.path().to_string();
        let message = describe(error.inner());
        // Some messages begin with the last part of the path.
        let last = format!("{}: ", field.rsplit('.').next().unwrap_or_default());
        let message = message.strip_prefix(&last).unwrap_or(&message);
        // A path of "." is the request itself.
        if field == "." { message.to_owned() } else { format!("{field}: {message}") }
    })?;
    json.end().map_err(|error| describe(&error))?;
    Ok(request)
}

/// `serde_json`'s message with the column only: it counts lines from 1 in each of ours.
fn describe(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    match message.strip_suffix(&place) {
        Some(what) => format!("{what} (column {})", error.column()),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    const TWO: &str = concat!(
        r#"{"client_id":"c1","changes":[{"entity":"T","row_id":"1","kind":"insert","data":{"n":1},"op_id":"a"}]}"#,
        "\n",
        r#"{"changes":[{"entity":"T","row_id":"1","kind":"delete"},{"entity":"T","row_id":"2","kind":"update"}]}"#,
        "\n",
    );

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).expect("a Vec takes everything");
        encoder.finish().expect("a Vec takes everything")
    }

    fn rows(input: &Input) -> Vec<(&str, &str, ChangeKind, Option<&str>)> {
        input.ops().map(|op| (&*op.entity, &*op.row_id, op.kind, op.text())).collect()
    }

    fn error(bytes: &[u8]) -> String {
        read("in", bytes).expect_err("must be refused").to_string()
    }

    #[test]
    fn two_requests_plain_and_gzipped() {
        let expected = [
            ("T", "1", ChangeKind::Insert, Some(r#"{"n":1}"#)),
            ("T", "1", ChangeKind::Delete, None),
            ("T", "2", ChangeKind::Update, None),
        ];
        let two_members = [gzip(&TWO[..102]), gzip(&TWO[102..])].concat();
        for bytes in [TWO.as_bytes().to_vec(), gzip(TWO), two_members] {
            let input = read("in", &*bytes).expect("good input");
            assert_eq!(input.requests.len(), 2);
            assert_eq!(rows(&input), expected);
        }
    }

    #[test]
    fn blank_lines_and_requests_without_changes_are_skipped_and_counted() {
        let text = format!("\n{TWO} \t\r\n{{\"changes\":[]}}\n\n");
        let input = read("in", text.as_bytes()).expect("good input");
        assert_eq!((input.requests.len(), input.skipped), (2, 4));
    }

    #[test]
    fn the_last_line_needs_no_newline() {
        let input = read("in", TWO.trim_end().as_bytes()).expect("good input");
        assert_eq!(input.requests.len(), 2);
    }

    #[test]
    fn nothing_to_replay_is_said() {
        for nothing in ["", "\n\n", "{\"changes\":[]}\n"] {
            assert_eq!(error(nothing.as_bytes()), "in: no changes in it, nothing to replay");
        }
        assert_eq!(error(&gzip("")), "in: no changes in it, nothing to replay");
    }

    #[test]
    fn an_error_names_the_line_and_the_field() {
        let cases = [
            (
                r#"{"changes":[{"entity":"T","row_id":"1","kind":"upsert"}]}"#,
                "in:3: changes[0].kind: unknown variant `upsert`",
            ),
            (
                r#"{"changes":[{"entity":"T","row_id":7,"kind":"insert"}]}"#,
                "in:3: changes[0].row_id: invalid type",
            ),
            (r#"{"changes":[{"entity":"T","kind":"insert"}]}"#, "in:3: changes[0]: missing field `row_id`"),
            (r#"{"client_id":"c"}"#, "in:3: missing field `changes`"),
            (r#"{"changes":[]} x"#, "in:3: trailing characters (column 16)"),
            (r#"{"changes":[{"entity":"#, "in:3: changes[0].entity: EOF"),
            ("not json", "in:3: expected ident (column 2)"),
        ];
        for (line, expected) in cases {
            let message = error(format!("{TWO}{line}\n").as_bytes());
            assert!(message.starts_with(expected), "{message:?} for {line}");
        }
        let message = error(b"{\"changes\":[{\"entity\":\"\xff\",\"row_id\":\"1\",\"kind\":\"insert\"}]}\n");
        assert!(message.starts_with("in:1: changes[0].entity: invalid unicode"), "{message:?}");
    }

    #[test]
    fn a_truncated_gzip_is_refused_wherever_it_ends() {
        let whole = gzip(TWO);
        for length in 0..whole.len() {
            let message = error(&whole[..length]);
            if length >= 2 {
                assert!(message.starts_with("in breaks off in line "), "{length}: {message}");
            }
        }
    }

    #[test]
    fn a_damaged_gzip_is_refused_or_reads_the_same() {
        let whole = gzip(TWO);
        let expected = read("in", &*whole).expect("good input");
        let mut refused = 0;
        for place in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[place] ^= 0x04;
            match read("in", &*bytes) {
                // A header's time stamp or name may be anything.
                Ok(input) => assert_eq!(rows(&input), rows(&expected), "byte {place}"),
                Err(_) => refused += 1,
            }
        }
        assert!(refused > whole.len() / 2, "only {refused} of {} refused", whole.len());
    }
}

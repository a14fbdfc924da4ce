//! A file that can be written to without being changed: what is written stays in memory.

use redb::StorageBackend;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Memory is kept in pages of so many bytes.
const PAGE: u64 = 4096;

/// The contents of a file, and over it what was written since.
#[derive(Debug)]
pub(super) struct Overlay {
    file: File,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    len: u64,
    /// From here on the file does not count any more: it was cut there at some time.
    file_len: u64,
    /// Whole pages that differ from the file's, by number.
    pages: BTreeMap<u64, Box<[u8]>>,
}

impl Overlay {
    pub(super) fn new(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self { file, inner: Mutex::new(Inner { len, file_len: len, pages: BTreeMap::new() }) })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the file has there; zeros beyond its end.
    fn read_file(&self, inner: &Inner, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let there = inner.file_len.saturating_sub(offset).min(out.len() as u64) as usize;
        let (from_file, beyond) = out.split_at_mut(there);
        beyond.fill(0);
        read_exact_at(&self.file, from_file, offset)
    }

    /// Calls `each` for every page of a range: with its number, where in it the part begins, and
    /// where that lies in the range.
    fn parts(
        offset: u64,
        len: usize,
        mut each: impl FnMut(u64, usize, std::ops::Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let within = (at % PAGE) as usize;
            let count = (PAGE as usize - within).min(len - done);
            each(at / PAGE, within, done..done + count)?;
            done += count;
        }
        Ok(())
    }
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.inner().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let inner = self.inner();
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > inner.len) {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.read_file(&inner, offset, out)?;
        Self::parts(offset, out.len(), |number, within, range| {
            if let Some(page) = inner.pages.get(&number) {
                let count = range.len();
                out[range].copy_from_slice(&page[within..within + count]);
            }
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = self.inner();
        if len < inner.len {
            inner.file_len = inner.file_len.min(len);
            inner.pages.split_off(&len.div_ceil(PAGE));
            if let Some(page) = inner.pages.get_mut(&(len / PAGE)) {
                page[(len % PAGE) as usize..].fill(0);
            }
        }
        inner.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut inner = self.inner();
        Self::parts(offset, data.len(), |number, within, range| {
            if !inner.pages.contains_key(&number) {
                let mut page = vec![0; PAGE as usize].into_boxed_slice();
                self.read_file(&inner, number * PAGE, &mut page)?;
                inner.pages.insert(number, page);
            }
            if let Some(page) = inner.pages.get_mut(&number) {
                let count = range.len();
                page[within..within + count].copy_from_slice(&data[range]);
            }
            Ok(())
        })?;
        inner.len = inner.len.max(offset + data.len() as u64);
        Ok(())
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, out: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

#[cfg(not(unix))]
fn read_exact_at(mut file: &File, out: &mut [u8], offset: u64) -> io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    // One reader at a time: all calls come with the lock held.
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    #[derive(Debug, Clone)]
    enum Step {
        Write(u64, Vec<u8>),
        SetLen(u64),
        Read(u64, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let offset = 0..20_000_u64;
        prop_oneof![
            (offset.clone(), prop::collection::vec(1..=255_u8, 0..9000))
                .prop_map(|(at, data)| Step::Write(at, data)),
            offset.clone().prop_map(Step::SetLen),
            (offset, 0..9000_usize).prop_map(|(at, len)| Step::Read(at, len)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// It reads as a file that took the writes, and the file is as it was.
        #[test]
        fn an_overlay_reads_as_a_file_that_was_written(
            content in prop::collection::vec(1..=255_u8, 0..15_000),
            steps in prop::collection::vec(step(), 1..20),
        ) {
            let mut file = tempfile::NamedTempFile::new()?;
            file.write_all(&content)?;
            let overlay = Overlay::new(file.reopen()?)?;
            let mut model = content.clone();
            for step in steps {
                match step {
                    Step::Write(at, data) => {
                        // redb sets the length first.
                        let at = at.min(model.len() as u64);
                        let end = at as usize + data.len();
                        model.resize(model.len().max(end), 0);
                        overlay.write(at, &data)?;
                        model[at as usize..end].copy_from_slice(&data);
                    }
                    Step::SetLen(len) => {
                        overlay.set_len(len)?;
                        model.resize(len as usize, 0);
                    }
                    Step::Read(at, len) => {
                        let mut out = vec![7; len];
                        match model.get(at as usize..at as usize + len) {
                            Some(expected) => {
                                overlay.read(at, &mut out)?;
                                prop_assert_eq!(&out, expected);
                            }
                            None => prop_assert!(overlay.read(at, &mut out).is_err()),
                        }
                    }
                }
                prop_assert_eq!(overlay.len()?, model.len() as u64);
            }
            prop_assert_eq!(std::fs::read(file.path())?, content);
        }
    }
}

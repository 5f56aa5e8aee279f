//! The journal of the record store (fjall), read before the store opens it.
//!
//! The store replays its journal up to the first batch that it can't read, cuts off all that
//! follows, and says nothing: that is right for the write that a crash has cut short, and loses
//! every later write where a bit has flipped in the middle. So this looks first. A write that was
//! cut short has nothing complete behind its beginning. Damage has: the trailer of the batch itself,
//! or those of the batches after it.
//!
//! ```text
//! batch   = 01 count:u32 seqno:u64 entry{count} trailer
//! entry   = 02 type:u8 compression:u8 keyspace:u64 key_len:u16 value_len:u32 stored_len:u32 key value
//!         | 04 keyspace:u64
//! trailer = 03 checksum:u64 "FJL" 03
//! ```
//!
//! Integers are little-endian. The checksum is the XXH3 of all entries. Behind the last batch there
//! may be zeros: the file is made longer than what is in it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::Path;

use xxhash_rust::xxh3::Xxh3;

const MAGIC: &[u8; 4] = b"FJL\x03";
const TRAILER: usize = 13;

/// Batches are numbered in ascending order. A step that is larger than this is no step: no store
/// lives that long.
const MAX_STEP: u64 = 1 << 40;

/// The file systems that matter write no less than this at once.
const PAGE: u64 = 4096;

/// What is in a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scan {
    /// Length of the batches that can be read, from the beginning.
    pub(super) valid: u64,
    /// Length of all that is not zero, with them.
    pub(super) end: u64,
    pub(super) tail: Tail,
}

/// What follows the last batch that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    Nothing,
    /// The beginning of a batch, which was never acknowledged.
    Torn,
    /// At least one batch that was complete once.
    Damaged,
}

/// Why a batch can't be read.
enum Broken {
    /// Its entries are as they were written: only what follows them is not.
    Trailer,
    Batch,
    Io(io::Error),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Batch } else { Self::Io(error) }
    }
}

/// Looks at all of a journal. `synced`: no batch was written before the one ahead of it was on
/// disk.
pub(super) fn scan(path: &Path, synced: bool) -> io::Result<Scan> {
    let mut input = Input::new(BufReader::with_capacity(64 << 10, File::open(path)?));
    let (mut valid, mut last) = (0, None);
    let whole = loop {
        match batch(&mut input, last) {
            Ok(seqno) => (valid, last) = (input.at, Some(seqno)),
            Err(Broken::Io(error)) => return Err(error),
            Err(Broken::Trailer) => break true,
            Err(Broken::Batch) => break false,
        }
    };
    let end = end(path, valid)?;
    let tail = match end.checked_sub(valid) {
        None | Some(0) => Tail::Nothing,
        Some(_) if whole => Tail::Damaged,
        Some(_) => classify(&read(path, valid..end)?, valid, synced),
    };
    Ok(Scan { valid, end: end.max(valid), tail })
}

/// The numbers of the keyspaces of which a journal has entries, in the batches before the first that
/// can't be read.
pub(super) fn keyspaces(path: &Path) -> io::Result<BTreeSet<u64>> {
    let mut input = Input::new(BufReader::with_capacity(64 << 10, File::open(path)?));
    let (mut found, mut last) = (BTreeSet::new(), None);
    loop {
        match batch(&mut input, last) {
            Ok(seqno) => last = Some(seqno),
            Err(Broken::Io(error)) => return Err(error),
            Err(_) => return Ok(found),
        }
        found.append(&mut input.keyspaces);
    }
}

/// The batches of a journal that can be read, those behind damage included, as ranges of bytes.
pub(super) fn salvage(path: &Path) -> io::Result<Vec<Range<u64>>> {
    let bytes = read(path, 0..end(path, 0)?)?;
    let (mut ranges, mut at, mut last) = (Vec::<Range<u64>>::new(), 0, None);
    while at < bytes.len() {
        let mut input = Input::new(&bytes[at..]);
        match batch(&mut input, last) {
            Ok(seqno) => {
                let range = at as u64..at as u64 + input.at;
                match ranges.last_mut() {
                    Some(before) if before.end == range.start => before.end = range.end,
                    _ => ranges.push(range.clone()),
                }
                (at, last) = (range.end as usize, Some(seqno));
            }
            Err(Broken::Io(error)) => return Err(error),
            Err(_) => at += 1,
        }
    }
    Ok(ranges)
}

/// Where the last byte is that is not zero, behind `from`; `from` where there is none.
pub(super) fn end(path: &Path, from: u64) -> io::Result<u64> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let (mut at, mut end) = (from, from);
    let zeros = vec![0; 256 << 10];
    let mut buffer = zeros.clone();
    loop {
        // The store makes its journals long, and most of one is a hole.
        match next_data(&file, at)? {
            Some(data) if data > at => at = file.seek(SeekFrom::Start(data))?,
            Some(_) => {}
            None => return Ok(end),
        }
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(end);
        }
        if buffer[..n] != zeros[..n]
            && let Some(last) = buffer[..n].iter().rposition(|&byte| byte != 0)
        {
            end = at + last as u64 + 1;
        }
        at += n as u64;
    }
}

/// Where the first byte is from `at` on that is in no hole of the file; none where there is none.
/// Leaves the place from which is read where it is, unless that is in a hole.
fn next_data(file: &File, at: u64) -> io::Result<Option<u64>> {
    #[cfg(target_os = "linux")]
    {
        use rustix::io::Errno;
        match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) => Ok(Some(data)),
            Err(Errno::NXIO) => Ok(None),
            // A file system that knows of no holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(at)),
            Err(error) => Err(error.into()),
        }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = file;
        Ok(Some(at))
    }
}

pub(super) fn read(path: &Path, range: Range<u64>) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(range.start))?;
    let mut bytes = Vec::new();
    file.take(range.end - range.start).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What the bytes from `at` on are, of which the first batch can't be read.
fn classify(rest: &[u8], at: u64, synced: bool) -> Tail {
    let trailer = |&i: &usize| rest[i] == 3 && rest[i + TRAILER - MAGIC.len()..].starts_with(MAGIC);
    let mut trailers = (0..(rest.len() + 1).saturating_sub(TRAILER)).filter(trailer);
    let first = trailers.next();
    if first.is_none() && !rest.ends_with(MAGIC) {
        return Tail::Torn;
    }
    // When power is lost, pages of one write may be on disk and others not, and where writes are
    // not synced, those of a later write and not of an earlier one.
    let alone = first.is_none_or(|first| first + TRAILER == rest.len());
    if (alone || !synced) && has_hole(rest, at) { Tail::Torn } else { Tail::Damaged }
}

/// Whether a page of these bytes, or what is in them of their first page, is all zeros.
fn has_hole(rest: &[u8], at: u64) -> bool {
    let head = (at.next_multiple_of(PAGE) - at) as usize;
    let zero = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0);
    let Some((head, pages)) = rest.split_at_checked(head) else { return false };
    (!head.is_empty() && zero(head)) || pages.chunks_exact(PAGE as usize).any(zero)
}

struct Input<R> {
    reader: R,
    at: u64,
    /// Of the entries that were read.
    keyspaces: BTreeSet<u64>,
}

impl<R: Read> Input<R> {
    fn new(reader: R) -> Self {
        Self { reader, at: 0, keyspaces: BTreeSet::new() }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn hash(&mut self, len: u64, hasher: &mut Xxh3) -> Result<(), Broken> {
        let (mut left, mut buffer) = (len, [0; 8 << 10]);
        while left > 0 {
            let part = &mut buffer[..left.min(8 << 10) as usize];
            self.reader.read_exact(part)?;
            hasher.update(part);
            left -= part.len() as u64;
        }
        self.at += len;
        Ok(())
    }
}

/// Reads one batch, which must come after number `after`. Returns its number.
fn batch(input: &mut Input<impl Read>, after: Option<u64>) -> Result<u64, Broken> {
    let [1] = input.take()? else { return Err(Broken::Batch) };
    let count = u32::from_le_bytes(input.take()?);
    let seqno = u64::from_le_bytes(input.take()?);
    if after.is_some_and(|after| seqno <= after || seqno - after > MAX_STEP) {
        return Err(Broken::Batch);
    }
    let mut hasher = Xxh3::new();
    for _ in 0..count {
        match input.take()? {
            tag @ [2] => {
                let kinds: [u8; 2] = input.take()?;
                let keyspace: [u8; 8] = input.take()?;
                let lens: [u8; 10] = input.take()?;
                hasher.update(&tag);
                for part in [&kinds[..], &keyspace, &lens] {
                    hasher.update(part);
                }
                input.keyspaces.insert(u64::from_le_bytes(keyspace));
                let key = u16::from_le_bytes([lens[0], lens[1]]);
                let value = u32::from_le_bytes([lens[6], lens[7], lens[8], lens[9]]);
                input.hash(u64::from(key) + u64::from(value), &mut hasher)?;
            }
            tag @ [4] => {
                let keyspace = input.take()?;
                hasher.update(&tag);
                hasher.update(&keyspace);
                input.keyspaces.insert(u64::from_le_bytes(keyspace));
            }
            _ => return Err(Broken::Batch),
        }
    }
    let [tag] = input.take()?;
    let sum = input.take()? == hasher.digest().to_le_bytes();
    let magic: [u8; 4] = input.take()?;
    match (sum, tag == 3, &magic == MAGIC) {
        (true, true, true) => Ok(seqno),
        (true, true, false) => {
            // As far as a write that was cut short got.
            let written = magic.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            let cut = magic[..written] == MAGIC[..written];
            Err(if cut { Broken::Batch } else { Broken::Trailer })
        }
        (true, false, _) => Err(Broken::Trailer),
        (false, ..) => Err(Broken::Batch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(seqno: u64, items: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut entries = Vec::new();
        for (key, value) in items {
            entries.extend([2, 0, 0]);
            entries.extend(7_u64.to_le_bytes());
            entries.extend((key.len() as u16).to_le_bytes());
            entries.extend((value.len() as u32).to_le_bytes());
            entries.extend((value.len() as u32).to_le_bytes());
            entries.extend_from_slice(key);
            entries.extend_from_slice(value);
        }
        let mut bytes = vec![1];
        bytes.extend((items.len() as u32).to_le_bytes());
        bytes.extend(seqno.to_le_bytes());
        bytes.extend(&entries);
        bytes.push(3);
        bytes.extend(xxhash_rust::xxh3::xxh3_64(&entries).to_le_bytes());
        bytes.extend(MAGIC);
        bytes
    }

    fn journal() -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut ends) = (Vec::new(), vec![0]);
        for (seqno, len) in [(4, 10), (5, 300), (9, 5000), (10, 1)] {
            bytes.extend(encode(seqno, &[(b"key", &vec![7; len]), (b"other", b"")]));
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    fn scan_of(bytes: &[u8], synced: bool) -> Scan {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        scan(file.path(), synced).unwrap()
    }

    #[test]
    fn journal_that_ends_anywhere_is_torn_there() {
        let (bytes, ends) = journal();
        // Of the long batch, some.
        let dense = |at: &usize| !(500..5000).contains(at) || at.is_multiple_of(97);
        for cut in (0..=bytes.len()).filter(dense) {
            for zeros in [0, 5000] {
                let mut file = bytes[..cut].to_vec();
                file.resize(cut + zeros, 0);
                let found = scan_of(&file, true);
                let valid = *ends.iter().rfind(|&&end| end <= cut).unwrap();
                assert_eq!(found.valid, valid as u64, "cut at {cut}");
                let torn = cut > valid;
                assert_eq!(found.tail, if torn { Tail::Torn } else { Tail::Nothing }, "at {cut}");
            }
        }
    }

    #[test]
    fn journal_with_a_flipped_bit_is_damaged_wherever_that_is() {
        let (bytes, ends) = journal();
        // Of the long batch, some.
        let dense = |at: &usize| !(500..5300).contains(at) || at.is_multiple_of(97);
        for at in (0..bytes.len()).filter(dense) {
            for bit in [0, 3, 7] {
                let mut file = bytes.clone();
                file[at] ^= 1 << bit;
                file.resize(bytes.len() + 5000, 0);
                let found = scan_of(&file, true);
                // The number of a batch is in no checksum: the order of the batches keeps it.
                let order_holds = found.tail == Tail::Nothing && found.valid == bytes.len() as u64;
                let in_number = ends.iter().any(|end| (end + 5..end + 13).contains(&at));
                assert!(found.tail == Tail::Damaged || (order_holds && in_number), "{at}.{bit}");
            }
        }
    }

    #[test]
    fn journal_with_a_page_that_power_loss_kept_from_the_disk_is_torn() {
        let (mut bytes, ends) = journal();
        // Of the last batch.
        let last = encode(11, &[(b"key", &[9; 20_000])]);
        let start = bytes.len();
        bytes.extend(&last);
        bytes[8192..12288].fill(0);
        let found = scan_of(&bytes, true);
        assert_eq!((found.valid, found.tail), (start as u64, Tail::Torn));

        // Of one that others follow: they were acknowledged, and so was it.
        let (mut bytes, _) = journal();
        bytes[ends[2] + 100..ends[2] + 100 + 4096].fill(0);
        assert_eq!(scan_of(&bytes, true).tail, Tail::Damaged);
    }

    #[test]
    fn journal_gives_back_the_batches_on_both_sides_of_damage() {
        let (mut bytes, ends) = journal();
        bytes[ends[1] + 40] ^= 4;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        let found = salvage(file.path()).unwrap();
        assert_eq!(found, [0..ends[1] as u64, ends[2] as u64..ends[4] as u64]);
    }
}

//! Bytes of any kind, read as the file of a cursor.

use super::*;

/// Reads `bytes` as a file; then stores them as a cursor, whose file is read, and damaged.
pub fn cursor(bytes: &[u8]) {
    if let Ok(found) = check("p", bytes) {
        let (value, end) = bytes.split_at(found.len);
        match &found.mark {
            Some(mark) if end.ends_with(MAGIC) => {
                assert_eq!(end, trailer("p", value, &found.owner, mark));
            }
            _ => assert_eq!(CursorFiles::value_of("p", bytes, &NoData), Some(value)),
        }
    }

    let at = bytes.first().copied().map_or(0, usize::from);
    let owner = CursorLayout { policy: "p".repeat(at % 40), schema: at as u32 };
    let mark = Mark { epoch: at as u64, next_id: u64::MAX - at as u64 };
    let mut file = bytes.to_vec();
    file.extend(trailer("p", bytes, &owner, &mark));
    let found = check("p", &file).expect("what this host writes, it reads");
    assert_eq!((found.len, &found.owner, found.mark), (bytes.len(), &owner, Some(mark)));

    // Changed in one place, it may be the file of an older host or of another program. These have
    // no mark, and so are not believed.
    let (at, bit) = (at * 31 % file.len(), 1 << (at % 8));
    file[at] ^= bit;
    if let Ok(found) = check("p", &file) {
        assert!(found.mark.is_none(), "byte {at} has changed, and it passes for whole");
    }
}

//! What a program of the machine needs beside itself: its loader and its libraries, read from its ELF header.

/// Where the bytes of a program come from.
pub(crate) trait Image {
    /// The bytes at an offset; `None` where there are not so many.
    fn read(&self, offset: u64, length: usize) -> Option<Vec<u8>>;
}

/// What one program or library names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// The loader, by its path.
    pub(crate) loader: Option<String>,
    /// Libraries, by their names.
    pub(crate) libraries: Vec<String>,
    /// Directories to look in first; `$ORIGIN` stands for the directory of the file itself.
    pub(crate) runpath: Vec<String>,
}

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;
/// Bytes of one program header.
const HEADER_BYTES: usize = 56;
/// A table longer than this is no program that we install.
const TABLE_BYTES_MAX: usize = 64 * 1024;
/// The longest name that is read.
const NAME_BYTES_MAX: usize = 1024;

/// A part of the file, and where it stands in memory.
struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    bytes: u64,
}

/// Reads what `image` needs; `None` where it is no 64-bit little-endian ELF file, such as a script.
pub(crate) fn needs(image: &impl Image) -> Option<Needs> {
    let header = image.read(0, 64)?;
    if header.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let segments = segments(image, &header)?;
    let mut needs = Needs::default();
    if let Some(segment) = segments.iter().find(|segment| segment.kind == PT_INTERP) {
        needs.loader = Some(name_at(image, segment.offset)?);
    }
    // Without a dynamic part it is linked statically and needs nothing.
    let Some(dynamic) = segments.iter().find(|segment| segment.kind == PT_DYNAMIC) else {
        return Some(needs);
    };
    let length = usize::try_from(dynamic.bytes).ok()?.min(TABLE_BYTES_MAX);
    let table = image.read(dynamic.offset, length)?;
    let rows: Vec<(u64, u64)> = table
        .chunks_exact(16)
        .filter_map(|row| Some((number(row, 0, 8)?, number(row, 8, 8)?)))
        .take_while(|(tag, _)| *tag != 0)
        .collect();
    let Some((_, address)) = rows.iter().find(|(tag, _)| *tag == DT_STRTAB) else {
        return Some(needs);
    };
    let names = in_file(&segments, *address)?;
    for (tag, value) in rows {
        let name = || name_at(image, names.checked_add(value)?);
        match tag {
            DT_NEEDED => needs.libraries.push(name()?),
            DT_RPATH | DT_RUNPATH => needs
                .runpath
                .extend(name()?.split(':').map(ToOwned::to_owned)),
            _ => {}
        }
    }
    Some(needs)
}

fn segments(image: &impl Image, header: &[u8]) -> Option<Vec<Segment>> {
    let offset = number(header, 32, 8)?;
    let each = usize::try_from(number(header, 54, 2)?).ok()?;
    let count = usize::try_from(number(header, 56, 2)?).ok()?;
    if each != HEADER_BYTES {
        return None;
    }
    let table = image.read(offset, each.checked_mul(count)?.min(TABLE_BYTES_MAX))?;
    table
        .chunks_exact(HEADER_BYTES)
        .map(|row| {
            Some(Segment {
                kind: u32::try_from(number(row, 0, 4)?).ok()?,
                offset: number(row, 8, 8)?,
                address: number(row, 16, 8)?,
                bytes: number(row, 32, 8)?,
            })
        })
        .collect()
}

/// The offset of what stands at an address.
fn in_file(segments: &[Segment], address: u64) -> Option<u64> {
    segments
        .iter()
        .filter(|segment| segment.kind == PT_LOAD)
        .find_map(|segment| {
            let within = address.checked_sub(segment.address)?;
            (within < segment.bytes).then(|| segment.offset.checked_add(within))?
        })
}

/// A text up to its zero byte. The file may end soon after it, so shorter pieces are tried.
fn name_at(image: &impl Image, offset: u64) -> Option<String> {
    let mut length = NAME_BYTES_MAX;
    while length > 0 {
        if let Some(bytes) = image.read(offset, length) {
            let end = bytes.iter().position(|byte| *byte == 0)?;
            return String::from_utf8(bytes.get(..end)?.to_vec()).ok();
        }
        length /= 2;
    }
    None
}

fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let part = bytes.get(at..at.checked_add(length)?)?;
    Some(
        part.iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Bytes(Vec<u8>);

    impl Image for Bytes {
        fn read(&self, offset: u64, length: usize) -> Option<Vec<u8>> {
            let start = usize::try_from(offset).ok()?;
            Some(self.0.get(start..start.checked_add(length)?)?.to_vec())
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "reads a program of the machine")]
    fn the_shell_needs_a_loader_and_the_library_of_c() {
        let found = needs(&Bytes(std::fs::read("/bin/sh").unwrap())).unwrap();
        assert!(found.loader.unwrap().contains("ld-"));
        assert!(
            found
                .libraries
                .iter()
                .any(|name| name.starts_with("libc.so"))
        );
    }

    #[test]
    fn a_script_needs_nothing() {
        assert_eq!(needs(&Bytes(b"#!/bin/sh\n".to_vec())), None);
        assert_eq!(needs(&Bytes([b'#'; 100].to_vec())), None);
    }

    proptest! {
        #[test]
        fn no_file_makes_the_reader_fail_otherwise(tail in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut bytes = b"\x7fELF\x02\x01".to_vec();
            bytes.extend(tail);
            let _any = needs(&Bytes(bytes));
        }
    }
}

//! gzip without compression: enough to send a content encoding that nobody asked for.

/// Largest stored block.
const BLOCK_BYTES: usize = 65_535;

/// A gzip member that holds `data` in stored blocks.
pub(crate) fn stored(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    let mut blocks = data.chunks(BLOCK_BYTES).peekable();
    if blocks.peek().is_none() {
        block(&mut out, &[], true);
    }
    while let Some(bytes) = blocks.next() {
        block(&mut out, bytes, blocks.peek().is_none());
    }
    out.extend_from_slice(&crc32(data).to_le_bytes());
    let length = u32::try_from(data.len() & 0xffff_ffff).unwrap_or(0);
    out.extend_from_slice(&length.to_le_bytes());
    out
}

fn block(out: &mut Vec<u8>, bytes: &[u8], last: bool) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.push(u8::from(last));
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&(!length).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn crc32(data: &[u8]) -> u32 {
    !data.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_check_value_of_the_standard() {
        assert_eq!(super::crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(super::stored(b"").len(), 10 + 5 + 8);
    }
}

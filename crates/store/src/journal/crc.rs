//! CRC-32C (Castagnoli), and which bit of a text was flipped when its checksum is wrong.

/// Continues `crc` (0 at the start) over the bytes.
pub(super) fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc, bytes)
}

/// The one bit of `len` bytes that makes their checksum differ by `difference`, counted from the first byte's lowest.
pub(super) fn flipped_bit(len: usize, difference: u32) -> Option<usize> {
    // What each bit of the last byte does to the checksum; one byte further from the end is one more zero byte behind it.
    let mut effects: [u32; 8] = std::array::from_fn(|bit| TABLE[1 << bit]);
    for place in (0..len).rev() {
        if let Some(bit) = effects.iter().position(|effect| *effect == difference) {
            return Some(place * 8 + bit);
        }
        for effect in &mut effects {
            let [low, ..] = effect.to_le_bytes();
            *effect = (*effect >> 8) ^ TABLE[usize::from(low)];
        }
    }
    None
}

// The effect of each byte.
static TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut table = [0_u32; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ POLYNOMIAL
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_values() {
        // RFC 3720, appendix B.4, and the usual check value.
        assert_eq!(crc32c(0, b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(0, &[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(0, &[0xff; 32]), 0x62a8_ab43);
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(0, &ascending), 0x46dd_794e);
    }

    #[test]
    fn one_flipped_bit_is_found() {
        let bytes: Vec<u8> = (0..100).collect();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let difference = crc32c(5, &bytes) ^ crc32c(5, &bad);
            assert_eq!(flipped_bit(bytes.len(), difference), Some(bit));
        }
        assert_eq!(flipped_bit(100, 0), None);
    }

    #[test]
    fn pieces_are_the_whole() {
        let bytes: Vec<u8> = (0..100).collect();
        for cut in 0..bytes.len() {
            let pieces = crc32c(crc32c(0, &bytes[..cut]), &bytes[cut..]);
            assert_eq!(pieces, crc32c(0, &bytes));
        }
    }
}

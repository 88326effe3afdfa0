//! The bytes of a segment.
//!
//! ```text
//! segment   header (128), then frames, then zeros to the end
//! header    magic 8 · version 4 · zero 4 · boot 16 · number 8 · first seq 8 · chain 32 · zero · crc 4
//! frame     length 4 · kind 1 · zero 3 · seq 8 · reference 8 · uid 16 · payload crc 4 · header crc 4,
//!           then the payload, padded with zeros to a multiple of 8
//! group     a frame with seq = last and reference = first record, payload chain 32 · digest 32;
//!           after it signature 64 · signature crc 4 · zero 4, all zero until signed
//! ```
//! Numbers are little-endian. Frame checksums start from the boot id and the segment's number, so
//! that a frame of another boot or place is no frame.

use base::TenantUid;
use vault::Sha256;

use crate::journal::crc::{crc32c, flipped_bit};
use crate::journal::{RecordHead, RecordKind, Seq};

/// Bytes of a segment's header.
pub(super) const SEGMENT_HEADER: usize = 128;
/// Bytes of a frame's header.
pub(super) const FRAME_HEADER: usize = 48;
/// Bytes of a group frame with its signature.
pub(super) const GROUP_FRAME: usize = FRAME_HEADER + GROUP_PAYLOAD + GROUP_SIGNATURE;
/// Bytes of the signature area after a group frame.
pub(super) const GROUP_SIGNATURE: usize = 72;

const GROUP_PAYLOAD: usize = 64;
const MAGIC: &[u8; 8] = b"PWJOURN\n";
const VERSION: u32 = 1;
const GROUP: u8 = 4;
const GROUP_CONTEXT: &[u8] = b"partywall journal group v1";

/// What stands at the head of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SegmentHeader {
    pub(super) boot: [u8; 16],
    pub(super) number: u64,
    pub(super) first_seq: u64,
    /// The chain's value after everything before this segment.
    pub(super) chain: [u8; 32],
}

/// One frame's header, its checksum verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Frame {
    pub(super) kind: FrameKind,
    pub(super) uid: TenantUid,
    pub(super) seq: u64,
    pub(super) reference: u64,
    pub(super) len: usize,
    payload_crc: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FrameKind {
    Record(RecordKind),
    Group,
}

/// A run of records that is signed together: `from` to `to`, hashed on top of `chain`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Group {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) chain: [u8; 32],
    pub(super) digest: [u8; 32],
}

/// What stands after a group frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum GroupSeal {
    Unsigned,
    Signed([u8; 64]),
    Damaged,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut bytes = [0; SEGMENT_HEADER];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.boot);
        bytes[32..40].copy_from_slice(&self.number.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.first_seq.to_le_bytes());
        bytes[48..80].copy_from_slice(&self.chain);
        let crc = crc32c(0, &bytes[..124]);
        bytes[124..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(segment: &[u8]) -> Option<Self> {
        let bytes = segment.first_chunk::<SEGMENT_HEADER>()?;
        let header = Self {
            boot: array(bytes, 16)?,
            number: u64::from_le_bytes(array(bytes, 32)?),
            first_seq: u64::from_le_bytes(array(bytes, 40)?),
            chain: array(bytes, 48)?,
        };
        (header.encode() == *bytes).then_some(header)
    }

    /// Where checksums of this segment's frames start.
    pub(super) fn salt(&self) -> u32 {
        crc32c(crc32c(0, &self.boot), &self.number.to_le_bytes())
    }

    /// What the node signs for a group of this segment.
    pub(super) fn signed_text(&self, group: &Group) -> Vec<u8> {
        let mut text = Vec::with_capacity(160);
        text.extend_from_slice(GROUP_CONTEXT);
        text.extend_from_slice(&self.boot);
        for number in [self.number, group.from, group.to] {
            text.extend_from_slice(&number.to_le_bytes());
        }
        text.extend_from_slice(&group.chain);
        text.extend_from_slice(&group.digest);
        text
    }
}

impl Frame {
    /// Writes a record's frame into `out`, which is cleared first.
    pub(super) fn write_record(
        head: &RecordHead,
        seq: u64,
        payload: &[u8],
        salt: u32,
        out: &mut Vec<u8>,
    ) {
        let kind = match head.kind {
            RecordKind::Sent => 1,
            RecordKind::Settled => 2,
            RecordKind::Event => 3,
        };
        let reference = head.reference.map_or(0, Seq::number);
        write(
            out,
            salt,
            kind,
            seq,
            reference,
            head.uid.as_bytes(),
            payload,
        );
    }

    /// Writes a group's frame with room for its signature into `out`, which is cleared first.
    pub(super) fn write_group(group: &Group, salt: u32, out: &mut Vec<u8>) {
        let mut payload = [0; GROUP_PAYLOAD];
        payload[..32].copy_from_slice(&group.chain);
        payload[32..].copy_from_slice(&group.digest);
        write(out, salt, GROUP, group.to, group.from, &[0; 16], &payload);
        out.resize(GROUP_FRAME, 0);
    }

    /// The frame that starts at `at`, if one does: its header must be whole.
    pub(super) fn decode(segment: &[u8], at: usize, salt: u32) -> Option<Self> {
        let bytes = segment.get(at..)?.first_chunk::<FRAME_HEADER>()?;
        let header_crc = u32::from_le_bytes(array(bytes, 44)?);
        if crc32c(salt, &bytes[..44]) != header_crc || bytes[5..8] != [0; 3] {
            return None;
        }
        let kind = match bytes[4] {
            1 => FrameKind::Record(RecordKind::Sent),
            2 => FrameKind::Record(RecordKind::Settled),
            3 => FrameKind::Record(RecordKind::Event),
            GROUP => FrameKind::Group,
            _ => return None,
        };
        let frame = Self {
            kind,
            len: usize::try_from(u32::from_le_bytes(array(bytes, 0)?)).ok()?,
            seq: u64::from_le_bytes(array(bytes, 8)?),
            reference: u64::from_le_bytes(array(bytes, 16)?),
            uid: TenantUid::from_bytes(array(bytes, 24)?),
            payload_crc: u32::from_le_bytes(array(bytes, 40)?),
        };
        let shaped = kind != FrameKind::Group || frame.len == GROUP_PAYLOAD;
        (shaped && frame.end(at) <= segment.len()).then_some(frame)
    }

    /// Where the next frame starts when this one starts at `at`.
    pub(super) fn end(&self, at: usize) -> usize {
        let seal = if self.kind == FrameKind::Group {
            GROUP_SIGNATURE
        } else {
            0
        };
        at + FRAME_HEADER + self.len.next_multiple_of(8) + seal
    }

    /// The payload, if it is whole.
    pub(super) fn payload<'a>(&self, segment: &'a [u8], at: usize) -> Option<&'a [u8]> {
        let start = at + FRAME_HEADER;
        let payload = segment.get(start..start + self.len)?;
        let padding = segment.get(start + self.len..start + self.len.next_multiple_of(8))?;
        self.holds(payload)
            .then_some(payload)
            .filter(|_| padding.iter().all(|byte| *byte == 0))
    }

    /// Puts right the one bit of the frame at `at` whose flip explains why it does not read, header first; tells which bit of the
    /// segment it was. The frame is left as it was where no single bit explains it.
    pub(super) fn mend(segment: &mut [u8], at: usize, salt: u32) -> Option<usize> {
        match Self::decode(segment, at, salt) {
            Some(frame) => frame.mend_payload(segment, at),
            None => mend_header(segment, at, salt),
        }
    }

    fn mend_payload(&self, segment: &mut [u8], at: usize) -> Option<usize> {
        let start = at + FRAME_HEADER;
        let payload = segment.get(start..start + self.len)?;
        let bit = match crc32c(0, payload) ^ self.payload_crc {
            0 => one_bit(segment.get(start + self.len..start + self.len.next_multiple_of(8))?)
                .map(|bit| self.len * 8 + bit),
            difference => flipped_bit(self.len, difference),
        }?;
        flip(segment, start * 8 + bit)?;
        Some(start * 8 + bit)
    }

    /// Whether the payload is this frame's.
    pub(super) fn holds(&self, payload: &[u8]) -> bool {
        crc32c(0, payload) == self.payload_crc
    }

    pub(super) fn group(&self, payload: &[u8]) -> Option<Group> {
        let (chain, digest) = (array(payload, 0)?, array(payload, 32)?);
        Some(Group {
            from: self.reference,
            to: self.seq,
            chain,
            digest,
        })
    }
}

impl Group {
    /// The hash of a run of frames on top of the chain.
    pub(super) fn hasher(chain: &[u8; 32]) -> Sha256 {
        let mut hasher = Sha256::new();
        hasher.update(chain);
        hasher
    }
}

impl GroupSeal {
    pub(super) fn encode(signature: &[u8; 64], salt: u32) -> [u8; GROUP_SIGNATURE] {
        let mut bytes = [0; GROUP_SIGNATURE];
        bytes[..64].copy_from_slice(signature);
        bytes[64..68].copy_from_slice(&crc32c(salt, signature).to_le_bytes());
        bytes
    }

    pub(super) fn decode(area: &[u8], salt: u32) -> Self {
        if area.iter().all(|byte| *byte == 0) {
            return Self::Unsigned;
        }
        match array(area, 0) {
            Some(signature) if Self::encode(&signature, salt) == area => Self::Signed(signature),
            _ => Self::Damaged,
        }
    }
}

/// Puts right the one bit of a segment's header whose flip explains why it does not read.
pub(super) fn mend_segment_header(segment: &mut [u8]) -> bool {
    let bits = SEGMENT_HEADER.min(segment.len()) * 8;
    (0..bits).any(|bit| {
        mended(segment, bit, |segment| {
            SegmentHeader::decode(segment).is_some()
        })
    })
}

/// The same for the seal after a group.
pub(super) fn mend_seal(area: &mut [u8], salt: u32) -> bool {
    let whole = |area: &[u8]| GroupSeal::decode(area, salt) != GroupSeal::Damaged;
    (0..area.len() * 8).any(|bit| mended(area, bit, whole))
}

// A flip in the header makes the payload's place or checksum another one: what is mended must hold all of it.
fn mend_header(segment: &mut [u8], at: usize, salt: u32) -> Option<usize> {
    let whole = |segment: &[u8]| {
        Frame::decode(segment, at, salt).is_some_and(|frame| frame.payload(segment, at).is_some())
    };
    let first = segment.get(at..at + FRAME_HEADER)?;
    if first.iter().all(|byte| *byte == 0) {
        return None;
    }
    (at * 8..(at + FRAME_HEADER) * 8).find(|bit| mended(segment, *bit, whole))
}

/// Flips one bit, for good where that makes it `whole`.
fn mended(bytes: &mut [u8], bit: usize, whole: impl Fn(&[u8]) -> bool) -> bool {
    let flipped = flip(bytes, bit).is_some();
    let right = flipped && whole(bytes);
    if flipped && !right {
        flip(bytes, bit);
    }
    right
}

/// Flips a bit, counted from the first byte's lowest. `None` behind the end.
pub(super) fn flip(bytes: &mut [u8], bit: usize) -> Option<()> {
    *bytes.get_mut(bit / 8)? ^= 1 << (bit % 8);
    Some(())
}

/// The only bit that is set.
fn one_bit(bytes: &[u8]) -> Option<usize> {
    let ones: u32 = bytes.iter().map(|byte| byte.count_ones()).sum();
    let (place, byte) = bytes.iter().enumerate().find(|(_, byte)| **byte != 0)?;
    (ones == 1).then_some(place * 8 + byte.trailing_zeros() as usize)
}

/// Bytes that a record with this payload takes.
pub(super) fn record_frame_len(payload: usize) -> usize {
    FRAME_HEADER + payload.next_multiple_of(8)
}

fn write(
    out: &mut Vec<u8>,
    salt: u32,
    kind: u8,
    seq: u64,
    reference: u64,
    uid: &[u8; 16],
    payload: &[u8],
) {
    out.clear();
    // Every caller bounds the payload far below 4 GiB; a longer one would fail its own checksum.
    out.extend_from_slice(
        &u32::try_from(payload.len())
            .unwrap_or(u32::MAX)
            .to_le_bytes(),
    );
    out.extend_from_slice(&[kind, 0, 0, 0]);
    out.extend_from_slice(&seq.to_le_bytes());
    out.extend_from_slice(&reference.to_le_bytes());
    out.extend_from_slice(uid);
    out.extend_from_slice(&crc32c(0, payload).to_le_bytes());
    let header_crc = crc32c(salt, out);
    out.extend_from_slice(&header_crc.to_le_bytes());
    out.extend_from_slice(payload);
    out.resize(record_frame_len(payload.len()), 0);
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head() -> RecordHead {
        RecordHead {
            kind: RecordKind::Settled,
            uid: TenantUid::from_bytes([7; 16]),
            reference: Some(Seq::from_number(3)),
        }
    }

    proptest! {
        #[test]
        fn a_record_reads_back(payload: Vec<u8>, seq: u64, salt: u32) {
            let mut bytes = Vec::new();
            Frame::write_record(&head(), seq, &payload, salt, &mut bytes);
            let frame = Frame::decode(&bytes, 0, salt).unwrap();
            prop_assert_eq!(frame.kind, FrameKind::Record(RecordKind::Settled));
            prop_assert_eq!((frame.seq, frame.reference, frame.uid), (seq, 3, head().uid));
            prop_assert_eq!(frame.payload(&bytes, 0), Some(payload.as_slice()));
            prop_assert_eq!(frame.end(0), bytes.len());
            prop_assert_eq!(Frame::decode(&bytes, 0, salt ^ 1), None);
        }

        #[test]
        fn one_flipped_bit_is_no_frame_or_no_payload(payload: Vec<u8>, at: prop::sample::Index, bit in 0..8u8) {
            let mut bytes = Vec::new();
            Frame::write_record(&head(), 9, &payload, 1, &mut bytes);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let read = Frame::decode(&bytes, 0, 1).and_then(|frame| frame.payload(&bytes, 0).map(<[u8]>::to_vec));
            prop_assert_eq!(read, None);
        }

        #[test]
        fn one_flipped_bit_is_put_right(payload: Vec<u8>, at: prop::sample::Index, bit in 0..8_usize) {
            let mut bytes = Vec::new();
            Frame::write_record(&head(), 9, &payload, 1, &mut bytes);
            let (whole, bit) = (bytes.clone(), at.index(bytes.len()) * 8 + bit);
            flip(&mut bytes, bit);
            prop_assert_eq!(Frame::mend(&mut bytes, 0, 1), Some(bit));
            prop_assert_eq!(&bytes, &whole);
            // Two bits in different bytes are not explained by one.
            if bytes.len() > 64 {
                flip(&mut bytes, 3);
                flip(&mut bytes, 8 * 24);
                let bad = bytes.clone();
                prop_assert_eq!(Frame::mend(&mut bytes, 0, 1), None);
                prop_assert_eq!(bytes, bad);
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>, at in 0..64usize, salt: u32) {
            let frame = Frame::decode(&bytes, at, salt);
            prop_assert!(frame.is_none_or(|frame| frame.end(at) <= bytes.len()));
            prop_assert!(SegmentHeader::decode(&bytes).is_none());
        }
    }

    #[test]
    fn a_segment_header_reads_back_and_notices_every_bit() {
        let header = SegmentHeader {
            boot: [1; 16],
            number: 2,
            first_seq: 3,
            chain: [4; 32],
        };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Some(header));
        for bit in 0..SEGMENT_HEADER * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&bad), None, "{bit}");
        }
    }

    #[test]
    fn a_group_and_its_seal_read_back() {
        let group = Group {
            from: 5,
            to: 9,
            chain: [1; 32],
            digest: [2; 32],
        };
        let mut bytes = Vec::new();
        Frame::write_group(&group, 1, &mut bytes);
        assert_eq!(bytes.len(), GROUP_FRAME);
        let frame = Frame::decode(&bytes, 0, 1).unwrap();
        assert_eq!(frame.end(0), GROUP_FRAME);
        assert_eq!(frame.group(frame.payload(&bytes, 0).unwrap()), Some(group));
        let seal = GroupSeal::encode(&[3; 64], 1);
        assert_eq!(GroupSeal::decode(&seal, 1), GroupSeal::Signed([3; 64]));
        assert_eq!(
            GroupSeal::decode(&[0; GROUP_SIGNATURE], 1),
            GroupSeal::Unsigned
        );
        for bit in 0..GROUP_SIGNATURE * 8 {
            let mut bad = seal;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(GroupSeal::decode(&bad, 1), GroupSeal::Damaged, "{bit}");
        }
    }
}

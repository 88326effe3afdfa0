//! Segments as crashes, decay and forgers leave them.

use vault::{Sha256, SigningKey};

use super::super::frame::{FRAME_HEADER, Frame, FrameKind, SEGMENT_HEADER, SegmentHeader};
use super::super::recover::{Left, recover};
use super::*;

/// A journal as a killed process leaves it: two signed groups, then a record in none. Returns the
/// first segment's bytes and where its frames start.
fn killed() -> (Vec<u8>, Vec<usize>) {
    let home = tempfile::tempdir().unwrap();
    let (journal, _) = open(home.path());
    for (uid, payload) in [(A, b"a first".as_slice()), (B, b"b second")] {
        put(&journal, uid, payload).unwrap();
        let seq = put(&journal, A, b"a more").unwrap();
        journal.synced_blocking(seq).unwrap();
    }
    let header = lock(&journal.shared.live)
        .segment(Seq::from_number(u64::MAX))
        .unwrap()
        .header;
    let unsynced = put(&journal, B, b"b unsynced").unwrap();
    journal.write_out(unsynced).unwrap();
    let (_, bytes) = segment::load(&dir(home.path()), 1).unwrap();
    let mut frames = vec![SEGMENT_HEADER];
    let mut at = SEGMENT_HEADER;
    while let Some(frame) = Frame::decode(&bytes, at, header.salt()) {
        at = frame.end(at);
        frames.push(at);
    }
    assert_eq!(frames.len(), 8);
    (bytes, frames)
}

fn recovered(bytes: &[u8]) -> Left {
    let home = tempfile::tempdir().unwrap();
    let file = segment::create(dir(home.path()), "0001", bytes.len() as u64).unwrap();
    RealDisk.write_at(&file, bytes, 0).unwrap();
    recover(&dir(home.path()), &signer().verifying_key()).unwrap()
}

#[test]
fn a_torn_tail_is_cut_at_every_byte() {
    let (bytes, frames) = killed();
    let (last, end) = (frames[6], frames[7]);
    assert_eq!(recovered(&bytes).records.len(), 5);
    for torn in last..end {
        let mut zeroed = bytes.clone();
        zeroed[torn..end].fill(0);
        // The padding and a zero at the end of the checksum are zeros anyway.
        let whole = zeroed == bytes;
        for left in [recovered(&zeroed), recovered(&bytes[..torn])] {
            assert_eq!(left.damaged, [], "{torn}");
            assert!(
                left.records.len() == 4 || (whole && left.records.len() == 5),
                "{torn}"
            );
        }
    }
}

#[test]
fn every_flipped_bit_before_the_tail_is_noticed() {
    let (bytes, frames) = killed();
    for at in 0..frames[6] {
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at % 8);
        let left = recovered(&bad);
        assert!(!left.damaged.is_empty(), "{at}");
        let kept = match at {
            ..SEGMENT_HEADER => 0,
            // Of a group that is surely synced one record is lost; of the last one all that follows the loss.
            _ if at < frames[3] => 4,
            _ => 2,
        };
        assert!(left.records.len() >= kept, "{at}");
    }
}

#[test]
fn damage_is_told_with_its_tenant_where_the_header_survives() {
    let (bytes, frames) = killed();
    let first = SegmentHeader::decode(&bytes).unwrap().first_seq;
    let damage = |at: usize| {
        let mut bad = bytes.clone();
        // One bit would be put right.
        bad[at] ^= 3;
        recovered(&bad).damaged
    };
    let told = |uid, seq, cause| {
        [Damage {
            uid,
            seq: Seq::from_number(seq),
            cause,
        }]
    };
    // Content of the first record, of the first group: synced for sure, a group follows.
    assert_eq!(
        damage(frames[0] + FRAME_HEADER),
        told(Some(A), first, DamageCause::Content)
    );
    assert_eq!(
        damage(frames[0] + 8),
        told(None, first, DamageCause::Header)
    );
    assert_eq!(
        damage(frames[2] + 8),
        told(None, first + 1, DamageCause::Header)
    );
    assert_eq!(
        damage(frames[2] + FRAME_HEADER),
        told(None, first + 1, DamageCause::Content)
    );
    assert_eq!(
        damage(frames[3] - 72),
        told(None, first + 1, DamageCause::Signature)
    );
    // The last group that was written might be half of a sync that a power cut ended.
    assert_eq!(
        damage(frames[3] + FRAME_HEADER),
        told(Some(B), first + 2, DamageCause::Tail)
    );
    assert_eq!(damage(3), told(None, first, DamageCause::Header));
}

#[test]
fn what_was_not_surely_synced_ends_at_its_first_loss() {
    let (bytes, frames) = killed();
    let first = SegmentHeader::decode(&bytes).unwrap().first_seq;
    let numbers = |lost: std::ops::Range<usize>| {
        let mut bad = bytes.clone();
        bad[lost].fill(0);
        let left = recovered(&bad);
        let numbers: Vec<_> = left
            .records
            .iter()
            .map(|r| r.seq.number() - first)
            .collect();
        (numbers, left.damaged)
    };
    // The frames: two records and their group, two and theirs, and one that is in none.
    let (kept, damaged) = numbers(frames[3]..frames[4]);
    assert_eq!(kept, [0, 1]);
    assert!(
        damaged
            .iter()
            .all(|damage| damage.cause == DamageCause::Tail)
    );
    // Half of a record.
    assert_eq!(numbers(frames[4] - 8..frames[4]).0, [0, 1]);
    assert_eq!(numbers(frames[4]..frames[5]).0, [0, 1, 2]);
    // A group's frame is no record.
    assert_eq!(numbers(frames[5]..frames[6]).0, [0, 1, 2, 3, 4]);
    // Of what was surely synced the rest is kept: that is decay, and its tenant has to know.
    let (kept, damaged) = numbers(frames[0]..frames[1]);
    assert_eq!(kept, [1, 2, 3, 4]);
    assert!(
        damaged
            .iter()
            .all(|damage| damage.cause != DamageCause::Tail)
    );
}

/// A journal whose disk stops syncing, and then goes on into a second segment: the bytes of both as they were written.
fn rolled_while_a_sync_was_under_way(synced: usize) -> (Vec<u8>, Vec<u8>, Vec<Seq>) {
    let home = tempfile::tempdir().unwrap();
    let disk = Arc::new(Faulty::default());
    let journal = open_on(home.path(), &disk);
    let mut seqs = Vec::new();
    for _ in 0..synced {
        seqs.push(put(&journal, A, &[1; 1500]).unwrap());
        journal.synced_blocking(*seqs.last().unwrap()).unwrap();
    }
    disk.hold_syncs.store(true, Ordering::SeqCst);
    let before = disk.syncs.load(Ordering::SeqCst);
    seqs.push(put(&journal, A, &[2; 1500]).unwrap());
    drop(Nudge(Arc::clone(&journal.shared)));
    wait_until("a sync", || disk.syncs.load(Ordering::SeqCst) > before);
    while !names(home.path()).contains("0002") {
        seqs.push(put(&journal, A, &[3; 1500]).unwrap());
    }
    journal.write_out(*seqs.last().unwrap()).unwrap();
    let bytes = |number| segment::load(&dir(home.path()), number).unwrap().1;
    let written = (bytes(1), bytes(2));
    disk.hold_syncs.store(false, Ordering::SeqCst);
    drop(journal);
    (written.0, written.1, seqs)
}

fn recovered_two(one: &[u8], two: Option<&[u8]>) -> Left {
    let home = tempfile::tempdir().unwrap();
    for (name, bytes) in [("0001", Some(one)), ("0002", two)] {
        let Some(bytes) = bytes else { continue };
        let file = segment::create(dir(home.path()), name, bytes.len() as u64).unwrap();
        RealDisk.write_at(&file, bytes, 0).unwrap();
    }
    recover(&dir(home.path()), &signer().verifying_key()).unwrap()
}

#[test]
fn a_power_cut_between_two_segments_damages_no_tenants_data() {
    let (one, two, seqs) = rolled_while_a_sync_was_under_way(2);
    let header = SegmentHeader::decode(&one).unwrap();
    assert_eq!(recovered_two(&one, Some(&two)).damaged, []);
    let mut at = SEGMENT_HEADER;
    let mut records = Vec::new();
    while let Some(frame) = Frame::decode(&one, at, header.salt()) {
        if frame.kind == FrameKind::Record(RecordKind::Sent) {
            records.push((frame.seq, at, frame.end(at)));
        }
        at = frame.end(at);
    }
    for (seq, start, end) in records {
        let synced = seq <= seqs[1].number();
        let mut bad = one.clone();
        // Its content; its header says whose it was.
        bad[start + FRAME_HEADER..end].fill(0);
        for second in [Some(two.as_slice()), None] {
            let left = recovered_two(&bad, second);
            let tail = |damage: &Damage| damage.cause == DamageCause::Tail;
            assert!(!left.damaged.is_empty());
            assert_eq!(
                left.damaged.iter().all(tail),
                !synced,
                "{seq}: {:?}",
                left.damaged
            );
            let after = left.records.iter().any(|record| record.seq.number() > seq);
            assert_eq!(after, synced, "what follows a loss is kept: {seq}");
        }
    }
    // The end of the first segment is lost whole, and nothing in it tells.
    let mut short = one.clone();
    short[at - 3_000..].fill(0);
    let left = recovered_two(&short, Some(&two));
    assert!(
        left.damaged
            .iter()
            .all(|damage| damage.cause == DamageCause::Tail)
    );
    let numbers: Vec<_> = left
        .records
        .iter()
        .map(|record| record.seq.number())
        .collect();
    let from = header.first_seq;
    assert_eq!(
        numbers,
        (from..from + numbers.len() as u64).collect::<Vec<_>>()
    );
    assert!(numbers.len() < seqs.len());
}

#[test]
fn one_flipped_bit_is_told_and_the_record_is_read_as_it_was_written() {
    let (bytes, frames) = killed();
    let whole = recovered(&bytes).records;
    // Header and payload of a record that was surely synced, of one of the last group, and of the one in no group.
    for frame in [0, 3, 6] {
        for at in [
            frames[frame],
            frames[frame] + 24,
            frames[frame] + FRAME_HEADER,
        ] {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            let left = recovered(&bad);
            let causes: Vec<_> = left
                .damaged
                .iter()
                .map(|damage| (damage.uid.is_some(), damage.cause))
                .collect();
            assert_eq!(causes, [(true, DamageCause::Bit)], "{frame} {at}");
            assert_eq!(left.records.len(), whole.len());
            for (mended, record) in left.records.iter().zip(&whole) {
                let segment = left.live.segment(record.seq).unwrap();
                assert_eq!((mended.seq, mended.uid), (record.seq, record.uid));
                assert!(segment.read_record(mended).is_ok(), "{frame} {at}");
            }
        }
    }
    let mut bad = bytes.clone();
    bad[40] ^= 4;
    let left = recovered(&bad);
    assert_eq!((left.records.len(), left.damaged.len()), (whole.len(), 1));
    assert_eq!(
        (left.damaged[0].uid, left.damaged[0].cause),
        (None, DamageCause::Bit)
    );
}

#[test]
fn a_rewritten_record_breaks_the_chain() {
    let (bytes, frames) = killed();
    let header = SegmentHeader::decode(&bytes).unwrap();
    let frame = Frame::decode(&bytes, frames[0], header.salt()).unwrap();
    assert_eq!(frame.kind, FrameKind::Record(RecordKind::Sent));
    let mut forged = Vec::new();
    let head = RecordHead {
        kind: RecordKind::Sent,
        uid: A,
        reference: None,
    };
    Frame::write_record(&head, frame.seq, b"a forge", header.salt(), &mut forged);
    let mut bad = bytes.clone();
    bad[frames[0]..frames[1]].copy_from_slice(&forged);
    let told = [Damage {
        uid: None,
        seq: Seq::from_number(frame.seq + 1),
        cause: DamageCause::Chain,
    }];
    assert_eq!(recovered(&bad).damaged, told);
}

#[test]
fn a_group_rehashed_without_the_key_breaks_the_signature() {
    let (bytes, frames) = killed();
    let header = SegmentHeader::decode(&bytes).unwrap();
    let salt = header.salt();
    let mut bad = bytes.clone();
    let mut out = Vec::new();
    let head = RecordHead {
        kind: RecordKind::Sent,
        uid: A,
        reference: None,
    };
    Frame::write_record(&head, header.first_seq + 3, b"forged", salt, &mut out);
    bad[frames[4]..frames[5]].copy_from_slice(&out);
    // The second group again, with the digest of the forged records but the old signature.
    let frame = Frame::decode(&bytes, frames[5], salt).unwrap();
    let mut group = frame
        .group(frame.payload(&bytes, frames[5]).unwrap())
        .unwrap();
    let mut hasher = Sha256::new();
    hasher.update(&group.chain);
    hasher.update(&bad[frames[3]..frames[5]]);
    group.digest = hasher.finish();
    Frame::write_group(&group, salt, &mut out);
    bad[frames[5]..frames[6] - 72].copy_from_slice(&out[..out.len() - 72]);
    let told = [Damage {
        uid: None,
        seq: Seq::from_number(header.first_seq + 3),
        cause: DamageCause::Tail,
    }];
    assert_eq!(recovered(&bad).damaged, told);
}

#[test]
fn another_nodes_signature_is_damage_and_the_file_is_kept() {
    let home = tempfile::tempdir().unwrap();
    let (journal, _) = open(home.path());
    let seqs = [put(&journal, A, b"x").unwrap()];
    drop(journal);
    for _ in 0..2 {
        let (journal, left) =
            Journal::open(dir(home.path()), SigningKey::generate(), SMALL).unwrap();
        assert_eq!(left.damaged.len(), 1);
        journal.folded(&seqs);
        drop(journal);
        assert!(names(home.path()).contains("0001"));
    }
}

#[test]
fn a_swapped_segment_breaks_the_chain() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for home in [&one, &two] {
        let (journal, _) = open(home.path());
        for _ in 0..12 {
            put(&journal, A, &[1; 2000]).unwrap();
        }
    }
    #[expect(clippy::disallowed_methods, reason = "plants a file")]
    std::fs::copy(two.path().join("0002"), one.path().join("0002")).unwrap();
    let (_, left) = open(one.path());
    assert!(
        left.damaged
            .iter()
            .any(|damage| damage.cause == DamageCause::Chain),
        "{:?}",
        left.damaged
    );
}

#[test]
fn a_lost_segment_in_between_is_no_damage() {
    // Folded segments are deleted in any order.
    let home = tempfile::tempdir().unwrap();
    let (journal, _) = open(home.path());
    let seqs: Vec<Seq> = (0..20)
        .map(|_| put(&journal, A, &[1; 2000]).unwrap())
        .collect();
    journal.folded(&seqs[8..12]);
    drop(journal);
    let (_, left) = open(home.path());
    assert_eq!(left.damaged, []);
    assert!(left.records.iter().any(|record| record.seq == seqs[0]));
}

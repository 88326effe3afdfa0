use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use super::*;
use crate::signing::SigningKey;

/// The tree hash by the recursive definition of RFC 6962 section 2.1.
fn defined(entries: &[Vec<u8>]) -> Hash {
    match entries {
        [] => sha256(&[]),
        [one] => leaf_hash(one),
        more => {
            let split = more.len().next_power_of_two() / 2;
            node_hash(&defined(&more[..split]), &defined(&more[split..]))
        }
    }
}

fn log_of(entries: &[Vec<u8>]) -> (Edge, Vec<Tile>) {
    let (mut edge, mut tiles) = (Edge::default(), Vec::new());
    for entry in entries {
        tiles.extend(edge.append(leaf_hash(entry)));
    }
    (edge, tiles)
}

fn numbered(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| n.to_string().into_bytes()).collect()
}

/// The reference vectors of Certificate Transparency's first implementation.
#[test]
fn roots_are_the_published_ones() {
    let entries = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ];
    let roots = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    let mut edge = Edge::default();
    assert_eq!(hex::encode(edge.root()), roots[0]);
    for (entry, root) in entries.iter().zip(&roots[1..]) {
        assert!(
            edge.append(leaf_hash(&hex::decode(entry).unwrap()))
                .is_empty()
        );
        assert_eq!(hex::encode(edge.root()), *root);
    }
}

#[test]
fn tiles_fill_at_their_width_and_roots_follow_the_definition() {
    let entries = numbered(2 * 256 + 3);
    for size in [255, 256, 257, 511, 512, 513, 515] {
        let (edge, tiles) = log_of(&entries[..size]);
        assert_eq!(edge.size(), size as u64);
        assert_eq!(edge.root(), defined(&entries[..size]), "{size}");
        assert_eq!(tiles.len(), size / 256);
        assert_eq!(Edge::from_levels(edge.levels()), Some(edge));
    }
    let (edge, tiles) = log_of(&numbered(65_536 + 256 + 1));
    let last = tiles.last().unwrap();
    assert_eq!((last.level, last.index), (0, 256));
    let second = tiles.iter().find(|tile| tile.level == 1).unwrap();
    assert_eq!((second.index, second.hashes.len()), (0, 8_192));
    assert_eq!(
        edge.levels().iter().map(Vec::len).collect::<Vec<_>>(),
        [1, 1, 1]
    );
    assert_eq!(edge.root(), defined(&numbered(65_536 + 256 + 1)));
}

#[test]
fn an_edge_that_is_none_is_refused() {
    let hash = Hash::default();
    assert!(Edge::from_levels(&[vec![hash; 256]]).is_none());
    assert!(Edge::from_levels(&[vec![hash], Vec::new()]).is_none());
    assert!(Edge::from_levels(&vec![vec![hash]; 9]).is_none());
    assert_eq!(Edge::from_levels(&[]), Some(Edge::default()));
    let all = vec![vec![hash; 255]; 8];
    assert_eq!(Edge::from_levels(&all).unwrap().size(), u64::MAX);
}

#[test]
fn names_are_those_of_the_specification() {
    assert_eq!(tile_path(0, 1_234_067, 256), "tile/0/x001/x234/067");
    assert_eq!(tile_path(1, 0, 255), "tile/1/000.p/255");
    assert_eq!(bundle_path(1_000, 7), "tile/entries/x001/000.p/7");
    assert_eq!(bundle_path(999, 256), "tile/entries/999");
}

#[test]
fn a_verifier_key_is_read_and_written_as_published() {
    // From the documentation of Go's `golang.org/x/mod/sumdb/note`.
    let text = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    let key = LogKey::parse(text).unwrap();
    assert_eq!(
        (key.name(), key.to_string().as_str()),
        ("PeterNeumann", text)
    );
    let note = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
    let signature = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=";
    let bytes = STANDARD.decode(signature).unwrap();
    assert_eq!(bytes[..4], [0xc7, 0x4f, 0x20, 0xa3]);
    crate::verify(key.key(), note.as_bytes(), &bytes[4..]).unwrap();
    for bad in [
        "",
        "PeterNeumann",
        "PeterNeumann+c74f20a3",
        "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a3+Ahpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10",
    ] {
        assert_eq!(LogKey::parse(bad), Err(NoteError::Malformed), "{bad}");
    }
}

fn signed(size: u64) -> (SignedCheckpoint, LogKey) {
    let key = SigningKey::from_seed(&[7; 32]);
    let public = LogKey::new("example.org/log", key.verifying_key()).unwrap();
    let checkpoint = Checkpoint {
        origin: "example.org/log".to_owned(),
        size,
        root: [9; 32],
    };
    (checkpoint.sign(&key, &public), public)
}

#[test]
fn a_checkpoint_opens_under_its_key_and_no_other() {
    let (checkpoint, key) = signed(42);
    assert!(checkpoint.note.starts_with("example.org/log\n42\nCQkJ"));
    let keys = [key.clone()];
    assert_eq!(
        Checkpoint::open(&checkpoint.note, &keys),
        Ok(checkpoint.clone())
    );
    let other = LogKey::new("example.org/log", SigningKey::generate().verifying_key()).unwrap();
    let unknown = Err(NoteError::UnknownKey);
    assert_eq!(
        Checkpoint::open(&checkpoint.note, std::slice::from_ref(&other)),
        unknown
    );
    // A key of another name signs nothing here, whatever it signed.
    let stranger = LogKey::new("example.org/other", *key.key()).unwrap();
    let foreign = checkpoint
        .checkpoint
        .clone()
        .sign(&SigningKey::from_seed(&[7; 32]), &stranger);
    assert_eq!(Checkpoint::open(&foreign.note, &[stranger, key]), unknown);
}

#[test]
fn a_checkpoint_has_one_form() {
    let (checkpoint, key) = signed(42);
    for (from, to) in [
        ("\n42\n", "\n042\n"),
        ("\n42\n", "\n+42\n"),
        ("\n42\n", "\n42\nmore\n"),
        ("\n42\n", "\n42 \n"),
        ("example.org/log\n", "\n"),
        ("\n\n", "\n"),
        ("\u{2014} ", "- "),
    ] {
        let note = checkpoint.note.replacen(from, to, 1);
        assert_ne!(note, checkpoint.note);
        let opened = Checkpoint::open(&note, std::slice::from_ref(&key));
        assert_eq!(opened, Err(NoteError::Malformed), "{note}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_earlier_state_is_found_again(now in 0_usize..1_200, cut in 0_usize..1_200) {
        let then = cut.min(now);
        let entries = numbered(now);
        let (edge, tiles) = log_of(&entries);
        let tile = |level, index| -> Result<Vec<Hash>, ()> {
            let found = tiles.iter().find(|tile| (tile.level, tile.index) == (level, index));
            Ok(hashes_of(&found.unwrap().hashes).unwrap())
        };
        let earlier = edge.at(then as u64, tile).unwrap().unwrap();
        prop_assert_eq!(&earlier, &log_of(&entries[..then]).0);
        prop_assert_eq!(earlier.root(), defined(&entries[..then]));
        prop_assert_eq!(edge.at(now as u64 + 1, tile), Ok(None));
    }

    #[test]
    fn a_flipped_bit_in_a_note_is_noticed(size: u64, at: prop::sample::Index, bit in 0..8_u8) {
        let (checkpoint, key) = signed(size);
        let mut bytes = checkpoint.note.clone().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(note) = String::from_utf8(bytes) {
            prop_assert!(Checkpoint::open(&note, &[key]).is_err());
        }
    }
}

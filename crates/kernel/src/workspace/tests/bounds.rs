//! What is too much, too deep, too long or no path.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::*;

#[tokio::test]
async fn a_workspace_holds_what_it_may_and_no_more() {
    let home = home().await;
    let room = Room {
        bytes_max: 50_000,
        files_max: 4,
        file_bytes_max: 20_000,
    };
    let write = |path: &str, bytes: usize, append: bool| {
        home.space.write(path, &vec![b'x'; bytes], append, &room)
    };
    let long = FileError::TooLarge { limit: 20_000 };
    assert_eq!(write("a", 20_001, false), Err(long));
    assert_eq!(write("a", 20_001, true), Err(long));
    write("a", 16_000, false).unwrap();
    assert_eq!(write("a", 4_001, true), Err(long));
    assert_eq!(write("a", 4_000, true).unwrap(), written(20_000, false));
    assert_eq!(home.space.read("a", 0, 0).unwrap().total, 20_000);
    let full = |bound, limit| Err(FileError::Full { bound, limit });
    assert_eq!(write("b", 20_000, false).unwrap(), written(20_000, true));
    assert_eq!(write("c", 20_000, false), full(Bound::Bytes, 50_000));
    assert_eq!(write("b", 20_000, true), Err(long));
    // The file that is replaced makes room for what replaces it.
    write("a", 20_000, false).unwrap();
    assert_eq!(write("c/d/e", 1, false), full(Bound::Files, 4));
    write("c", 1, false).unwrap();
    write("d", 1, true).unwrap();
    assert_eq!(write("e", 1, false), full(Bound::Files, 4));
    assert_eq!(write("e", 1, true), full(Bound::Files, 4));
    write("d", 2, false).unwrap();
    fs::write(home.path.join("e"), vec![1; 30_000]).unwrap();
    assert!(matches!(write("d", 1, false), Err(FileError::Full { .. })));
    home.space.remove("e").unwrap();
    fs::write(home.path.join("b"), vec![1; 90_000]).unwrap();
    assert_eq!(write("d", 1, false), full(Bound::Bytes, 50_000));
    home.space.remove("b").unwrap();
    write("d", 1, false).unwrap();
    // Nothing of the refused ones is left.
    assert_eq!(home.paths(), ["a", "c", "d"]);
}

#[tokio::test]
async fn very_deep_and_very_wide_trees_are_cut() {
    let home = home().await;
    let mut deep = home.path.clone();
    for _ in 0..70 {
        deep.push("d");
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("f"), CANARY).unwrap();
    assert_eq!(
        home.put("a", "x"),
        Err(FileError::Full {
            bound: Bound::Depth,
            limit: 64
        })
    );
    let listing = home.space.list("", 99, 999, ALL).unwrap();
    assert_eq!(listing.entries.len(), PARTS_MAX + 1);
    assert_eq!(
        listing
            .entries
            .iter()
            .filter(|entry| !entry.addressable)
            .count(),
        1
    );
    assert!(home.search("canary", "").hits.is_empty());
    let file = vec!["d"; 33].join("/");
    assert_eq!(home.read(&file), Err(FileError::Path(PathFault::Deep)));
    fs::remove_dir_all(home.path.join("d")).unwrap();
    for number in 0..1_200 {
        fs::write(home.path.join(format!("{number:04}")), "").unwrap();
    }
    let wide = home.space.list("", 1, 5, ALL).unwrap();
    let paths: Vec<_> = wide
        .entries
        .iter()
        .map(|entry| entry.path.as_str())
        .collect();
    assert_eq!(
        (paths, wide.cut),
        (vec!["0000", "0001", "0002", "0003", "0004"], true)
    );
    assert!(matches!(
        home.put("a", "x"),
        Err(FileError::Full {
            bound: Bound::Files,
            ..
        })
    ));
}

#[tokio::test]
async fn a_file_with_holes_is_read_where_it_is_asked_for() {
    let home = home().await;
    let path = home.path.join("huge");
    let file = fs::File::create(&path).unwrap();
    const LONG: u64 = 1 << 40;
    file.set_len(LONG).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"here", LONG / 2).unwrap();
    drop(file);
    let piece = home.space.read("huge", LONG / 2, 4).unwrap();
    assert_eq!(
        (piece.bytes.as_slice(), piece.total),
        (b"here".as_slice(), LONG)
    );
    let most = home.space.read("huge", LONG / 2, usize::MAX).unwrap();
    assert_eq!(most.bytes.len(), PIECE_BYTES_MAX);
    assert!(home.space.read("huge", LONG, 4).unwrap().bytes.is_empty());
    assert!(matches!(
        home.add("huge", "x"),
        Err(FileError::TooLarge { .. })
    ));
    // It weighs what it takes on the disk; as a text it is none.
    home.put("a", "needle").unwrap();
    assert_eq!(home.search("needle", "").hits.len(), 1);
    // A text that goes over into a hole costs what is read of one file at most.
    fs::write(&path, "needle\n".repeat(2_000)).unwrap();
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(LONG)
        .unwrap();
    let unbounded = Reach {
        file_bytes_max: u64::MAX,
        bytes_max: u64::MAX,
        ..reach()
    };
    let found = home
        .space
        .search("needle", "huge", &unbounded, ALL)
        .unwrap();
    assert_eq!((found.hits.len(), found.cut), (100, true));
}

#[tokio::test]
async fn names_that_are_no_paths_are_shown_and_not_reached() {
    let home = home().await;
    for name in [b"bad\xff".as_slice(), b"new\nline", b"back\\slash", b"good"] {
        fs::write(home.path.join(OsStr::from_bytes(name)), "needle").unwrap();
    }
    let hidden = home.path.join(OsStr::from_bytes(b"dir\xfe"));
    fs::create_dir(&hidden).unwrap();
    fs::write(hidden.join("f"), vec![b'x'; 100_000]).unwrap();
    let listing = home.space.list("", 9, 99, ALL).unwrap();
    let shown: Vec<_> = listing
        .entries
        .iter()
        .map(|entry| (entry.path.as_str(), entry.addressable))
        .collect();
    assert_eq!(
        shown,
        [
            ("back\\slash", false),
            ("bad\u{fffd}", false),
            ("dir\u{fffd}", false),
            ("good", true),
            ("new\u{fffd}line", false),
        ]
    );
    assert!(matches!(home.read("bad\u{fffd}"), Err(FileError::NotFound)));
    assert_eq!(home.search("needle", "").hits.len(), 1);
    // What cannot be reached takes room all the same.
    let room = Room {
        bytes_max: 90_000,
        ..ROOM
    };
    let full = home.space.write("a", b"x", false, &room);
    assert_eq!(
        full,
        Err(FileError::Full {
            bound: Bound::Bytes,
            limit: 90_000
        })
    );
}

#[tokio::test]
async fn a_search_keeps_its_bounds() {
    let home = home().await;
    home.put(
        "a",
        format!("{}needle{}\n", "é".repeat(2_000), "ü".repeat(2_000)),
    )
    .unwrap();
    home.put("b", "\0needle").unwrap();
    home.put("c", b"\xff needle\r\nneedle").unwrap();
    let found = home.search("needle", "");
    assert_eq!(found.hits.len(), 3);
    assert!(found.hits[0].text.len() <= 512 && found.hits[0].text.contains("needle"));
    assert_eq!(found.hits[1].text, "\u{fffd} needle");
    let with = |reach: Reach| home.space.search("needle", "", &reach, ALL).unwrap();
    let few = with(Reach {
        hits_max: 2,
        ..reach()
    });
    assert_eq!((few.hits.len(), few.cut), (2, true));
    let short = with(Reach {
        file_bytes_max: 10,
        ..reach()
    });
    assert_eq!((short.hits.len(), short.cut), (1, true));
    let little = with(Reach {
        bytes_max: 100,
        ..reach()
    });
    assert_eq!((little.hits.len(), little.cut), (0, true));
    let late = with(Reach {
        deadline: Instant::now(),
        ..reach()
    });
    assert_eq!((late.hits.len(), late.cut), (0, true));
    for text in ["", "a\nb", "a\r"] {
        assert_eq!(
            home.space.search(text, "", &reach(), ALL),
            Err(FileError::Text)
        );
    }
}

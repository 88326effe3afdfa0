//! What a caller may not know of is not there.

use super::*;

/// Everything but what lies in `a/private`, and names that begin with `key`.
fn most(path: &str) -> bool {
    let private = path == "a/private" || path.starts_with("a/private/");
    !private && !path.rsplit('/').any(|part| part.starts_with("key"))
}

fn shown(listing: &Listing) -> Vec<&str> {
    let entries = listing.entries.iter();
    entries.map(|entry| entry.path.as_str()).collect()
}

#[tokio::test]
async fn what_may_not_be_known_is_neither_listed_nor_found_and_nothing_else_is_lost() {
    let home = home().await;
    for path in [
        "a/f",
        "a/private/deep/f",
        "a/private/f",
        "a/privateer",
        "b/key",
        "b/keys/f",
        "f",
        "key\u{1}s",
    ] {
        let planted = home.path.join(path);
        fs::create_dir_all(planted.parent().unwrap()).unwrap();
        fs::write(planted, "needle").unwrap();
    }
    let listing = home.space.list("", 9, 99, &most).unwrap();
    assert_eq!(shown(&listing), ["a", "a/f", "a/privateer", "b", "f"]);
    assert!(!listing.cut);
    // As many as there are for this caller: what else is there does not show.
    let exact = home.space.list("", 9, 5, &most).unwrap();
    assert!(exact.entries.len() == 5 && !exact.cut);
    let exact = Reach {
        hits_max: 3,
        ..reach()
    };
    let found = home.space.search("needle", "", &exact, &most).unwrap();
    let files: Vec<_> = found.hits.iter().map(|hit| hit.path.as_str()).collect();
    assert_eq!(files, ["a/f", "a/privateer", "f"]);
    assert!(
        !home
            .space
            .search("needle", "", &reach(), &most)
            .unwrap()
            .cut
    );
    // By its own path it is what a path that was never there is.
    for path in ["a/private", "a/private/deep", "b/key", "/box/b/keys"] {
        let listed = home.space.list(path, 9, 99, &most);
        assert_eq!(listed, Err(FileError::NotFound), "{path}");
        let found = home.space.search("needle", path, &reach(), &most);
        assert_eq!(found, Err(FileError::NotFound), "{path}");
    }
    let nothing = home.space.list("", 9, 99, &|_| false).unwrap();
    assert!(nothing.entries.is_empty() && !nothing.cut);
    assert_eq!(home.paths().len(), 13);
}

#[tokio::test]
async fn nothing_is_asked_of_what_lies_below_a_name_that_is_not_to_be_known() {
    let home = home().await;
    home.put("a/private/f", "needle").unwrap();
    // Closed to the owner too: going into it would be told as cut.
    home.put("a/keys/f", "needle").unwrap();
    let mode = |bits| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(bits);
        fs::set_permissions(home.path.join("a/keys"), mode).unwrap();
    };
    mode(0o000);
    let asked = std::cell::RefCell::new(Vec::new());
    let may = |path: &str| {
        asked.borrow_mut().push(path.to_owned());
        most(path)
    };
    assert!(!home.space.list("", 9, 99, &may).unwrap().cut);
    assert!(!home.space.search("needle", "", &reach(), &may).unwrap().cut);
    mode(0o700);
    let mut asked = asked.into_inner();
    asked.sort_unstable();
    asked.dedup();
    assert_eq!(asked, ["a", "a/keys", "a/private"]);
}

#[tokio::test]
async fn many_names_that_are_not_to_be_known_hide_no_other() {
    let home = home().await;
    for number in 0..2_000 {
        fs::write(home.path.join(format!("key{number}")), "").unwrap();
    }
    fs::write(home.path.join("z"), "needle").unwrap();
    let listing = home.space.list("", 1, 1, &most).unwrap();
    assert_eq!((shown(&listing), listing.cut), (vec!["z"], false));
}

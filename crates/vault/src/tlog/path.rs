//! Names of tiles and bundles (C2SP `tlog-tiles`, "Parameters" and "Log entries").

use std::fmt::Write as _;

use super::TILE_WIDTH;

/// The name of a hash tile: `tile/0/x001/x234/067`, with `.p/7` after it when it holds 7 hashes only.
#[must_use]
pub fn tile_path(level: u8, index: u64, width: usize) -> String {
    let mut path = format!("tile/{level}/");
    push_index(&mut path, index, width);
    path
}

/// The name of an entry bundle: `tile/entries/000`, with `.p/7` after it when it holds 7 entries only.
#[must_use]
pub fn bundle_path(index: u64, width: usize) -> String {
    let mut path = "tile/entries/".to_owned();
    push_index(&mut path, index, width);
    path
}

// Groups of three digits, all but the last marked: a directory never holds more than a thousand names of each kind.
fn push_index(path: &mut String, index: u64, width: usize) {
    let mut groups = vec![index % 1_000];
    let mut rest = index / 1_000;
    while rest > 0 {
        groups.push(rest % 1_000);
        rest /= 1_000;
    }
    // Writing to a string cannot fail.
    for group in groups.iter().skip(1).rev() {
        let _infallible = write!(path, "x{group:03}/");
    }
    let _infallible = write!(path, "{:03}", groups[0]);
    if width < TILE_WIDTH {
        let _infallible = write!(path, ".p/{width}");
    }
}

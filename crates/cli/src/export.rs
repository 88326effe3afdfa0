//! An exported audit log as files: written beside the place that was named, and put there as a whole.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rpc::{Answer, Closed, Fault, FaultCode, FilePiece, Row, Rows};

use crate::files;
use crate::print::Meter;

/// Takes the rows of an export.
pub(crate) struct Export {
    to: PathBuf,
    /// Where files are until all of them are there.
    fresh: PathBuf,
    open: Option<(String, File)>,
    progress: Meter,
    failed: Option<Fault>,
}

impl Export {
    /// Begins an export to a directory that does not exist yet.
    pub(crate) fn begin(to: &Path) -> Result<Self, Fault> {
        if files::exists(to) {
            let text = format!("{} exists already: name a new directory", to.display());
            return Err(Fault::new(FaultCode::Exists, text));
        }
        let mut fresh = to.as_os_str().to_owned();
        fresh.push(".incomplete");
        let fresh = PathBuf::from(fresh);
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&fresh)
            .map_err(|error| failed("create", &fresh, &error))?;
        Ok(Self {
            to: to.to_owned(),
            fresh,
            open: None,
            progress: Meter::default(),
            failed: None,
        })
    }

    /// Puts the export in its place, or takes away what there is of it.
    #[expect(
        clippy::disallowed_methods,
        reason = "a directory that the operator named on the command line"
    )]
    pub(crate) fn end(mut self, asked: Result<Answer, Fault>) -> Result<Answer, Fault> {
        let answer = match (self.failed.take(), asked) {
            (None, Ok(answer)) => self.close_file().map(|()| answer),
            (Some(fault), _) | (None, Err(fault)) => Err(fault),
        };
        match answer {
            Ok(answer) => {
                std::fs::rename(&self.fresh, &self.to)
                    .map_err(|error| failed("create", &self.to, &error))?;
                Ok(answer)
            }
            Err(fault) => {
                // What cannot be taken away keeps a name that says what it is.
                let _rest = std::fs::remove_dir_all(&self.fresh);
                Err(fault)
            }
        }
    }

    fn take(&mut self, row: Row) -> Result<(), Fault> {
        match row {
            Row::File(piece) => self.write(&piece),
            Row::Progress(progress) => {
                self.progress.show(progress);
                Ok(())
            }
            _ => Err(other_version()),
        }
    }

    fn write(&mut self, piece: &FilePiece) -> Result<(), Fault> {
        let bytes = STANDARD.decode(&piece.data).map_err(|_| other_version())?;
        let continued = matches!(&self.open, Some((name, _)) if *name == piece.name);
        if !continued {
            self.close_file()?;
            let file = self.create(&piece.name)?;
            self.open = Some((piece.name.clone(), file));
        }
        let path = self.fresh.join(&piece.name);
        match &mut self.open {
            Some((_, file)) => file
                .write_all(&bytes)
                .map_err(|error| failed("write", &path, &error)),
            None => Ok(()),
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a directory that the operator named on the command line"
    )]
    fn create(&self, name: &str) -> Result<File, Fault> {
        let relative = Path::new(name);
        let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
        if name.is_empty() || !relative.components().all(plain) {
            return Err(other_version());
        }
        let path = self.fresh.join(relative);
        let parent = path.parent().unwrap_or(&self.fresh);
        std::fs::DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(parent)
            .map_err(|error| failed("create", parent, &error))?;
        std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| failed("create", &path, &error))
    }

    fn close_file(&mut self) -> Result<(), Fault> {
        let Some((name, file)) = self.open.take() else {
            return Ok(());
        };
        file.sync_all()
            .map_err(|error| failed("write", &self.fresh.join(name), &error))
    }
}

impl Rows for Export {
    fn push(&mut self, row: Row) -> Result<(), Closed> {
        match self.take(row) {
            Ok(()) => Ok(()),
            Err(fault) => {
                self.failed = Some(fault);
                Err(Closed)
            }
        }
    }
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> Fault {
    let text = format!("cannot {what} {}: {error}", path.display());
    Fault::new(FaultCode::Io, text)
}

fn other_version() -> Fault {
    Fault::new(
        FaultCode::Unreachable,
        "the gateway sent rows of another kind; is it another version?",
    )
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "tests look at the files that were written"
)]
mod tests {
    use super::*;

    fn piece(name: &str, text: &str) -> Row {
        Row::File(FilePiece {
            name: name.to_owned(),
            data: STANDARD.encode(text),
        })
    }

    #[test]
    fn pieces_become_files_and_the_directory_appears_as_a_whole() {
        let home = tempfile::tempdir().unwrap();
        let to = home.path().join("out");
        let mut export = Export::begin(&to).unwrap();
        for (name, text) in [("tile/0/000", "ab"), ("tile/0/000", "c"), ("vkey", "k")] {
            assert!(export.push(piece(name, text)).is_ok());
        }
        assert!(!to.exists());
        export.end(Ok(Answer::End { rows: 3 })).ok().unwrap();
        assert_eq!(std::fs::read(to.join("tile/0/000")).unwrap(), b"abc");
        assert_eq!(std::fs::read(to.join("vkey")).unwrap(), b"k");
        assert_eq!(
            Export::begin(&to).err().map(|fault| fault.code),
            Some(FaultCode::Exists)
        );
    }

    #[test]
    fn nothing_is_written_outside_and_nothing_is_left_of_a_failure() {
        let home = tempfile::tempdir().unwrap();
        let to = home.path().join("out");
        for name in [
            "../evil",
            "/tmp/evil",
            "a/../../evil",
            "",
            "tile/../../evil",
        ] {
            let mut export = Export::begin(&to).unwrap();
            assert_eq!(export.push(piece(name, "x")), Err(Closed), "{name}");
            let ended = export.end(Err(Fault::from(Closed)));
            assert_eq!(
                ended.err().map(|fault| fault.code),
                Some(FaultCode::Unreachable)
            );
        }
        let mut export = Export::begin(&to).unwrap();
        assert!(export.push(piece("a", "x")).is_ok());
        let broken = Fault::new(FaultCode::Quarantined, "broken");
        assert!(export.end(Err(broken)).is_err());
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    }
}

//! Carries a command to whoever holds the data directory: the running gateway over `DATA/control.sock`, otherwise this
//! process under the lock.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rpc::frame::{ANSWER_LINE_BYTES_MAX, SOCKET_NAME};
use rpc::{Answer, Command, Fault, FaultCode, Frame, Rows};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::backend::{self, Place};

/// How long a command waits for another command, or for a gateway that is starting, to let go of the directory.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// Between two looks at the lock.
const LOCK_POLL: Duration = Duration::from_millis(50);
/// Silence of the gateway before a command gives up. Only `audit tail --follow` may be silent longer.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// Longest path that a socket address takes on every system, its final zero included.
const SOCKET_PATH_MAX: usize = 100;

/// Carries `command` out and hands its rows over as they come.
pub(crate) fn ask(place: &Place, command: &Command, rows: &mut dyn Rows) -> Result<Answer, Fault> {
    if reads_named_file(place, command) {
        return backend::offline(place, command.clone(), rows);
    }
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        if let Some(stream) = connect(&place.data)? {
            return talk(stream, command, rows);
        }
        match backend::offline(place, command.clone(), rows) {
            Err(fault) if fault.code == FaultCode::Locked && Instant::now() < deadline => {
                std::thread::sleep(LOCK_POLL)
            }
            outcome => return outcome,
        }
    }
}

/// Whether a gateway answers on the directory's socket.
pub(crate) fn is_served(data: &Path) -> Result<bool, Fault> {
    connect(data).map(|stream| stream.is_some())
}

/// `--config FILE` asks about that file, of which a running gateway knows nothing.
fn reads_named_file(place: &Place, command: &Command) -> bool {
    place.config.is_some()
        && matches!(
            command,
            Command::ConfigCheck { .. } | Command::ConfigShow { .. } | Command::Doctor
        )
}

/// A connection to the running gateway; `None` where none listens, a stale socket file included.
fn connect(data: &Path) -> Result<Option<UnixStream>, Fault> {
    let path = data.join(SOCKET_NAME);
    let stat = match rustix::fs::statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(unreachable(&path, &error)),
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(Fault::new(
            FaultCode::Refused,
            format!("{} is not a socket; remove it", path.display()),
        ));
    }
    refuse_stranger(stat.st_uid, &path)?;
    let (reachable, _handle) = short_path(data, path)?;
    match UnixStream::connect(&reachable) {
        Ok(stream) => {
            check_peer(&stream, &reachable)?;
            Ok(Some(stream))
        }
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::ConnectionRefused | ErrorKind::NotFound
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(unreachable(&reachable, &error)),
    }
}

/// A socket address holds about a hundred bytes: a longer path is reached through a handle of its directory.
fn short_path(
    data: &Path,
    path: PathBuf,
) -> Result<(PathBuf, Option<std::os::fd::OwnedFd>), Fault> {
    if path.as_os_str().len() < SOCKET_PATH_MAX {
        return Ok((path, None));
    }
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
    let dir =
        rustix::fs::open(data, flags, Mode::empty()).map_err(|error| unreachable(&path, &error))?;
    Ok((
        PathBuf::from(format!("/proc/self/fd/{}/{SOCKET_NAME}", dir.as_raw_fd())),
        Some(dir),
    ))
}

/// The gateway's process must be our own user's: commands carry secrets. Root may command any user's gateway.
#[cfg(target_os = "linux")]
fn check_peer(stream: &UnixStream, path: &Path) -> Result<(), Fault> {
    let peer =
        rustix::net::sockopt::socket_peercred(stream).map_err(|error| unreachable(path, &error))?;
    refuse_stranger(peer.uid.as_raw(), path)
}

/// Elsewhere the owner of the socket's file, checked before, has to do.
#[cfg(not(target_os = "linux"))]
fn check_peer(_stream: &UnixStream, _path: &Path) -> Result<(), Fault> {
    Ok(())
}

fn refuse_stranger(owner: u32, path: &Path) -> Result<(), Fault> {
    let own = rustix::process::geteuid();
    if own.is_root() || owner == own.as_raw() {
        return Ok(());
    }
    let text = format!(
        "{} belongs to user {owner}, not to you (user {}); run the command as that user",
        path.display(),
        own.as_raw()
    );
    Err(Fault::new(FaultCode::Refused, text))
}

fn talk(stream: UnixStream, command: &Command, rows: &mut dyn Rows) -> Result<Answer, Fault> {
    let endless = matches!(command, Command::AuditTail { follow: true, .. });
    let silence = if endless { None } else { Some(SILENCE_MAX) };
    stream
        .set_read_timeout(silence)
        .and_then(|()| stream.set_write_timeout(Some(SILENCE_MAX)))
        .map_err(|e| broken(&e))?;
    (&stream)
        .write_all(&command.to_line()?)
        .map_err(|e| broken(&e))?;
    read_answer(BufReader::new(stream), rows)
}

fn read_answer(mut from: impl BufRead, rows: &mut dyn Rows) -> Result<Answer, Fault> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let limit = u64::try_from(ANSWER_LINE_BYTES_MAX).unwrap_or(u64::MAX);
        (&mut from)
            .take(limit)
            .read_until(b'\n', &mut line)
            .map_err(|e| broken(&e))?;
        if line.last() != Some(&b'\n') {
            let text = "the gateway broke off in the middle of its answer; see gateway.log, then try again";
            return Err(Fault::new(FaultCode::Unreachable, text));
        }
        match Frame::from_line(&line)? {
            Frame::Row(row) => rows.push(*row)?,
            Frame::Answer(answer) => return Ok(*answer),
            Frame::Fault(fault) => return Err(fault),
        }
    }
}

fn broken(error: &std::io::Error) -> Fault {
    let text = match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            format!(
                "the gateway did not answer within {} s; see gateway.log",
                SILENCE_MAX.as_secs()
            )
        }
        _ => format!("the connection to the gateway broke: {error}"),
    };
    Fault::new(FaultCode::Unreachable, text)
}

fn unreachable(path: &Path, error: &impl std::fmt::Display) -> Fault {
    Fault::new(
        FaultCode::Unreachable,
        format!("cannot reach the gateway at {}: {error}", path.display()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use rpc::{Closed, Row};
    use std::os::unix::net::UnixListener;

    #[derive(Default)]
    struct Collected(Vec<String>);

    impl Rows for Collected {
        fn push(&mut self, row: Row) -> Result<(), Closed> {
            if let Row::Audit(entry) = row {
                self.0.push(entry.get().to_owned());
            }
            Ok(())
        }
    }

    #[test]
    fn rows_come_before_the_answer() {
        let text = "{\"row\":{\"audit\":{\"n\":1}}}\n{\"row\":{\"audit\":{\"n\":2}}}\n{\"answer\":{\"end\":{\"rows\":2}}}\n";
        let mut rows = Collected::default();
        assert!(matches!(
            read_answer(text.as_bytes(), &mut rows),
            Ok(Answer::End { rows: 2 })
        ));
        assert_eq!(rows.0, ["{\"n\":1}", "{\"n\":2}"]);
    }

    #[test]
    fn a_broken_answer_is_a_fault() {
        let long = "x".repeat(ANSWER_LINE_BYTES_MAX + 1);
        for text in [
            "",
            "{\"answer\":{\"end\":{\"rows\":0}}}",
            "{\"row\":{\"audit\":{}}}\n",
            "what\n",
            &long,
        ] {
            let fault = read_answer(text.as_bytes(), &mut Collected::default())
                .err()
                .unwrap();
            assert_eq!((fault.code, fault.exit_code()), (FaultCode::Unreachable, 1));
        }
    }

    #[test]
    fn a_fault_comes_through() {
        let text = "{\"fault\":{\"code\":\"not_found\",\"message\":\"no tenant acme\"}}\n";
        let fault = read_answer(text.as_bytes(), &mut Collected::default())
            .err()
            .unwrap();
        assert_eq!(fault, Fault::new(FaultCode::NotFound, "no tenant acme"));
    }

    #[test]
    fn a_missing_or_stale_socket_is_nobody() {
        let temp = tempfile::tempdir().unwrap();
        assert!(!is_served(temp.path()).unwrap());
        assert!(!is_served(&temp.path().join("absent")).unwrap());
        let listener = UnixListener::bind(temp.path().join(SOCKET_NAME)).unwrap();
        assert!(is_served(temp.path()).unwrap());
        drop(listener);
        assert!(!is_served(temp.path()).unwrap());
    }

    #[test]
    fn what_is_no_socket_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        crate::files::private_directory(&temp.path().join(SOCKET_NAME)).unwrap();
        assert_eq!(is_served(temp.path()).unwrap_err().code, FaultCode::Refused);
    }

    #[test]
    fn a_long_path_is_reached() {
        let temp = tempfile::tempdir().unwrap();
        let deep = temp.path().join("d".repeat(120));
        crate::files::private_directory(&deep).unwrap();
        let (short, handle) = short_path(&deep, deep.join(SOCKET_NAME)).unwrap();
        let listener = UnixListener::bind(&short).unwrap();
        assert!(handle.is_some() && is_served(&deep).unwrap());
        drop(listener);
    }
}

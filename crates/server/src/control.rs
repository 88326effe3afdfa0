//! `DATA/control.sock`: commands of this machine's operator. The file's mode and the peer's user are the credential.

use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kernel::{DataRoot, Operator};
use rpc::frame::{REQUEST_LINE_BYTES_MAX, SOCKET_NAME};
use rpc::{Answer, Command, Fault, FaultCode, Frame};
use rustix::fs::Mode;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::fault::io;
use crate::feed::Feed;
use crate::operate::Office;

/// Commands at the same time.
const CLIENTS_MAX: usize = 64;
/// A client that has not sent its command by then is cut.
const REQUEST_WAIT: Duration = Duration::from_secs(20);
/// A client that does not take a line by then is cut.
const WRITE_WAIT: Duration = Duration::from_secs(60);
/// After a failed accept, so that a lack of descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Longest socket address that every system takes.
const SOCKET_PATH_MAX: usize = 100;

/// Everything that a command of the socket needs.
pub(crate) struct Control {
    pub(crate) office: Arc<Office>,
    pub(crate) operator: Arc<Operator>,
    /// New commands are no longer taken.
    pub(crate) stopping: CancellationToken,
    /// Commands under way are cut.
    pub(crate) cutting: CancellationToken,
}

/// Binds the socket. The data directory's lock is held, so a file of that name is what an earlier process left.
pub(crate) fn bind(root: &DataRoot) -> Result<UnixListener, Fault> {
    let failed = |error: &dyn std::fmt::Display| io("control.sock cannot be made", error);
    match root.dir().remove_file(SOCKET_NAME) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(&error)),
    }
    // The umask has kept it private from the first moment.
    let listener = UnixListener::bind(address(root)).map_err(|error| failed(&error))?;
    let flags = rustix::fs::AtFlags::empty();
    rustix::fs::chmodat(root.dir(), SOCKET_NAME, Mode::from_raw_mode(0o600), flags)
        .map_err(|error| failed(&error))?;
    Ok(listener)
}

/// Removes the socket at the end.
pub(crate) fn unbind(root: &DataRoot) {
    // A file that stays is removed at the next start.
    let _best_effort = root.dir().remove_file(SOCKET_NAME);
}

/// A long path is reached through the handle of its directory.
fn address(root: &DataRoot) -> PathBuf {
    let path = root.path().join(SOCKET_NAME);
    if path.as_os_str().len() < SOCKET_PATH_MAX {
        return path;
    }
    PathBuf::from(format!(
        "/proc/self/fd/{}/{SOCKET_NAME}",
        root.dir().as_raw_fd()
    ))
}

/// Takes commands until the gateway stops.
pub(crate) async fn serve(listener: UnixListener, control: Arc<Control>) {
    let places = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        let accepted = tokio::select! {
            () = control.stopping.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // The next client waits in the backlog while all places are taken.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        control
            .office
            .kernel
            .tasks()
            .spawn(attend(Arc::clone(&control), stream, place));
    }
}

async fn attend(control: Arc<Control>, stream: UnixStream, place: OwnedSemaphorePermit) {
    if !is_ours(&stream) {
        return;
    }
    tokio::select! {
        () = control.cutting.cancelled() => {}
        () = converse(&control, stream) => {}
    }
    drop(place);
}

/// Commands carry secrets and hold every tenant: only the gateway's own user, and root, which could read the disk anyway.
fn is_ours(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

async fn converse(control: &Control, stream: UnixStream) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let last = match tokio::time::timeout(REQUEST_WAIT, request(&mut reader)).await {
        Ok(Ok(command)) => match carry_out(control, command, reader, &mut writer).await {
            Some(Ok(answer)) => Frame::Answer(Box::new(answer)),
            Some(Err(fault)) => Frame::Fault(fault),
            // Nobody is there to read a last line.
            None => return,
        },
        Ok(Err(fault)) => Frame::Fault(fault),
        Err(_late) => Frame::Fault(Fault::new(FaultCode::Invalid, "no command came in time")),
    };
    let _reader_may_be_gone = send(&mut writer, &last).await;
}

async fn request(reader: &mut BufReader<OwnedReadHalf>) -> Result<Command, Fault> {
    let mut line = Zeroizing::new(Vec::new());
    let max = u64::try_from(REQUEST_LINE_BYTES_MAX)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    let unreadable = |error: std::io::Error| Fault::new(FaultCode::Unreachable, error.to_string());
    reader
        .take(max)
        .read_until(b'\n', &mut line)
        .await
        .map_err(unreadable)?;
    Command::from_json(line.trim_ascii_end())
}

/// `None` when the reader went away.
async fn carry_out(
    control: &Control,
    command: Command,
    mut reader: BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
) -> Option<Result<Answer, Fault>> {
    let endless = matches!(command, Command::AuditTail { follow: true, .. });
    let (feed, mut waiting) = Feed::new();
    let work = async {
        let answer = control
            .office
            .carry_out(&control.operator, command, &feed)
            .await;
        drop(feed);
        answer
    };
    // Owns the queue's end: when nobody reads, the command's next row fails and ends it.
    let write = async move {
        while let Some(row) = waiting.recv().await {
            send(writer, &Frame::Row(Box::new(row))).await.ok()?;
        }
        Some(())
    };
    let gone = async {
        // A client that waits for rows for ever is noticed by its silence ending, not by a failed write.
        let mut byte = [0];
        match reader.read(&mut byte).await {
            _ if !endless => std::future::pending().await,
            _ => {}
        }
    };
    tokio::select! {
        (answer, written) = async { tokio::join!(work, write) } => written.map(|()| answer),
        () = gone => None,
        // A gateway that stops lets short commands end; a tail has no end of its own.
        () = control.stopping.cancelled(), if endless => Some(Err(Fault::new(FaultCode::Unreachable, "the gateway stops"))),
    }
}

async fn send(writer: &mut OwnedWriteHalf, frame: &Frame) -> Result<(), Fault> {
    let line = frame.to_line()?;
    let broken = || Fault::new(FaultCode::Unreachable, "the reader went away");
    match tokio::time::timeout(WRITE_WAIT, writer.write_all(&line)).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(broken()),
    }
}

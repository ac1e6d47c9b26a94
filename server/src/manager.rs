//! The service manager, if one has started us: it may have opened the listening socket already
//! (`LISTEN_FDS`; sd_listen_fds(3)), and may want to know when we are ready and when we stop
//! (`NOTIFY_SOCKET`; sd_notify(3)). Two environment variables and a datagram; no library.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::sys::socket::sockopt::SendTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, sendto, setsockopt, socket,
};
use nix::sys::time::TimeVal;
use tcpecho_common::calls;

use crate::failure::Failure;
use crate::inherited;

/// Where the sockets that are passed begin.
const FIRST: RawFd = 3;

/// How long a manager that does not read is waited for.
const PATIENCE: TimeVal = TimeVal::new(1, 0);

static NOTIFY: OnceLock<OsString> = OnceLock::new();

/// Takes what the manager has left for us, and its variables out of the environment: they are not
/// meant for our children. Returns the listening socket, if one was passed. To be called before
/// anything is opened and any thread is started. Errors: more than one, or none behind its number.
pub fn take() -> Result<Option<OwnedFd>, Failure> {
    let number = |name| {
        env::var(name)
            .ok()
            .and_then(|text| text.parse::<u32>().ok())
    };
    let for_us = number("LISTEN_PID") == Some(std::process::id());
    let passed = number("LISTEN_FDS").filter(|_| for_us).unwrap_or(0);
    if let Some(place) = env::var_os("NOTIFY_SOCKET").filter(|place| !place.is_empty()) {
        // The first call is the only one.
        let _ = NOTIFY.set(place);
    }
    for name in [
        "LISTEN_PID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        "NOTIFY_SOCKET",
    ] {
        #[expect(unsafe_code)]
        // SAFETY: there is no other thread that could be reading the environment.
        unsafe {
            env::remove_var(name);
        }
    }
    match passed {
        0 => Ok(None),
        1 => inherited::take(FIRST).map(Some).map_err(|errno| {
            Failure::new("no descriptor 3, though LISTEN_FDS=1 promises one", errno)
        }),
        many => Err(Failure::plain(format!(
            "{many} listening sockets were passed (LISTEN_FDS={many}), and a server has one"
        ))
        .hint(
            "one ListenStream= in the .socket unit, one -l for systemd-socket-activate; an IPv6 \
             one serves IPv4, too (BindIPv6Only=both)",
        )),
    }
}

/// Tells the manager, if it wants to know: `READY=1`, `STOPPING=1`. One that cannot be told is no
/// reason not to serve.
pub fn tell(state: &str) {
    let Some(place) = NOTIFY.get() else { return };
    if let Err(errno) = send(place, state) {
        let place = place.to_string_lossy();
        log::warn!(
            "the service manager could not be told {state} (NOTIFY_SOCKET={place}): {errno}"
        );
    }
}

fn send(place: &OsStr, state: &str) -> nix::Result<()> {
    let address = match place.as_bytes() {
        [b'@', name @ ..] => UnixAddr::new_abstract(name)?,
        [b'/', ..] => UnixAddr::new(place)?,
        _ => return Err(Errno::EAFNOSUPPORT),
    };
    let socket = socket(
        AddressFamily::Unix,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    setsockopt(&socket, SendTimeout, &PATIENCE)?;
    let fd = socket.as_raw_fd();
    calls::may_block("sendto", fd, || {
        sendto(fd, state.as_bytes(), &address, MsgFlags::MSG_NOSIGNAL)
    })?;
    Ok(())
}

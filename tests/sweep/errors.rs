//! The errors that the kernel may return for a correct call. A program need not expect others.

use libc::{
    EAGAIN, ECONNABORTED, ECONNREFUSED, ECONNRESET, EDQUOT, EINTR, EIO, EMFILE, ENFILE, ENOBUFS,
    ENOLCK, ENOMEM, ENOSPC, EPIPE, ETIMEDOUT,
};

use super::injector::Call;

pub(crate) fn of(call: &Call) -> &'static [i32] {
    let (file, socket) = (call.of.starts_with('/'), call.of.starts_with("socket:"));
    match call.number {
        libc::SYS_openat => &[EMFILE, ENFILE, ENOMEM, EIO],
        libc::SYS_read
        | libc::SYS_pread64
        | libc::SYS_readv
        | libc::SYS_getdents64
        | libc::SYS_readlinkat
        | libc::SYS_fstat
        | libc::SYS_newfstatat
        | libc::SYS_statx
            if file =>
        {
            &[EIO]
        }
        libc::SYS_write | libc::SYS_pwrite64 | libc::SYS_writev if file => &[ENOSPC, EIO, EDQUOT],
        libc::SYS_read | libc::SYS_readv | libc::SYS_recvfrom | libc::SYS_recvmsg if socket => {
            &[ECONNRESET, ETIMEDOUT]
        }
        libc::SYS_write | libc::SYS_writev | libc::SYS_sendto | libc::SYS_sendmsg if socket => {
            &[EPIPE, ECONNRESET, ENOBUFS]
        }
        libc::SYS_connect => &[ECONNREFUSED, ETIMEDOUT],
        libc::SYS_socket => &[EMFILE, ENFILE, ENOBUFS],
        libc::SYS_accept4 => &[ECONNABORTED, EMFILE, ENFILE],
        libc::SYS_pipe2
        | libc::SYS_epoll_create1
        | libc::SYS_eventfd2
        | libc::SYS_timerfd_create
        | libc::SYS_inotify_init1
        | libc::SYS_pidfd_open => &[EMFILE, ENFILE, ENOMEM],
        libc::SYS_flock => &[EINTR, ENOLCK],
        libc::SYS_fsync
        | libc::SYS_fdatasync
        | libc::SYS_ftruncate
        | libc::SYS_renameat
        | libc::SYS_renameat2
        | libc::SYS_linkat
        | libc::SYS_symlinkat
        | libc::SYS_mkdirat
        | libc::SYS_mknodat => &[EIO, ENOSPC],
        number if OLDER.contains(&number) => &[EIO, ENOSPC],
        libc::SYS_unlinkat
        | libc::SYS_unlink
        | libc::SYS_chmod
        | libc::SYS_fchmod
        | libc::SYS_fchownat => &[EIO],
        libc::SYS_clone | libc::SYS_clone3 => &[EAGAIN, ENOMEM],
        _ => &[],
    }
}

/// The same without a directory, which newer machines have no numbers for.
#[cfg(target_arch = "x86_64")]
const OLDER: &[i64] = &[libc::SYS_rename, libc::SYS_link, libc::SYS_symlink, libc::SYS_mkdir];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[i64] = &[];

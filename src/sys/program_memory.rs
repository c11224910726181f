//! Giving back memory that the program's own code takes.
#![expect(unsafe_code, reason = "each block says why it is sound")]

use std::ffi::{c_int, c_void};
use std::ptr;
use std::time::Duration;

/// After how much idle time to call [`release_unused`]: a hand-over after it takes 0.05 ms longer, which
/// a run that goes on sooner does not pay.
pub(crate) const QUIET: Duration = Duration::from_millis(100);

/// Gives back the memory that the kernel can fill again from our program's file: its text and its
/// constants, which are nearly all memory of a waiting process. Pages come back when they are
/// touched.
pub(crate) fn release_unused() {
    // SAFETY: `give_back_of` is what is expected here, and needs no data.
    unsafe { libc::dl_iterate_phdr(Some(give_back_of), ptr::null_mut()) };
}

/// Ends the iteration: the first object is the program, and its libraries are not ours alone.
extern "C" fn give_back_of(
    object: *mut libc::dl_phdr_info,
    _size: usize,
    _nothing: *mut c_void,
) -> c_int {
    // SAFETY: it describes something that is loaded, and has so many headers.
    let (base, headers) = unsafe {
        let object = &*object;
        (object.dlpi_addr, std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into()))
    };
    // SAFETY: asks.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let page = usize::try_from(page).expect("pages have a size");
    for header in headers {
        // Skip writable and relocated segments: the file does not back their pages.
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let begin = usize::try_from(base + header.p_vaddr);
        let (Ok(begin), Ok(size)) = (begin, usize::try_from(header.p_memsz)) else { continue };
        let within = begin % page;
        // SAFETY: no code can have written there, so it reads the same afterwards. Pages that
        // cannot be given back stay.
        unsafe {
            let begin = ptr::with_exposed_provenance_mut(begin - within);
            libc::madvise(begin, within + size, libc::MADV_DONTNEED);
        }
    }
    1
}

//! The heap of a static build. musl's own allocator asks the kernel for nearly every larger piece and
//! gives it back at once, which takes a run more time than all else that it does.
#![expect(unsafe_code, reason = "each block says why it is sound")]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::yield_now;

use dlmalloc::Dlmalloc;

#[global_allocator]
static HEAP: Heap = Heap { busy: AtomicBool::new(false), pieces: UnsafeCell::new(Dlmalloc::new()) };

/// With a lock of its own, because there is hardly ever a second thread that could want it: a server
/// writes its journal in one, and host names are looked up in one.
struct Heap {
    busy: AtomicBool,
    pieces: UnsafeCell<Dlmalloc>,
}

// SAFETY: nothing but `with` gets at what is in it, and only while it alone is `busy`.
unsafe impl Sync for Heap {}

impl Heap {
    fn with<T>(&self, action: impl FnOnce(&mut Dlmalloc) -> T) -> T {
        while self.busy.swap(true, Ordering::Acquire) {
            yield_now();
        }
        // SAFETY: it was not busy, so there is no other reference. The allocator does not call back.
        let done = action(unsafe { &mut *self.pieces.get() });
        self.busy.store(false, Ordering::Release);
        done
    }
}

// SAFETY: Dlmalloc does what GlobalAlloc asks for, and is asked for the same.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are the same.
        self.with(|pieces| unsafe { pieces.malloc(layout.size(), layout.align()) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are the same.
        self.with(|pieces| unsafe { pieces.calloc(layout.size(), layout.align()) })
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the same.
        self.with(|pieces| unsafe { pieces.free(piece, layout.size(), layout.align()) });
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promises are the same.
        self.with(|pieces| unsafe { pieces.realloc(piece, layout.size(), layout.align(), size) })
    }
}

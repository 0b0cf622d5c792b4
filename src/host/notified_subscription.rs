//! A subscription as of one NOTIFY, in shared memory until its answer comes,
//! in whichever process that is.

use std::ffi::c_void;
use std::ptr::NonNull;

use crate::host::memory::shm_copy;
use crate::host::sys;
use crate::ports::Notify;
use crate::presence::cseq::CSeq;
use crate::presence::event_package::PackageId;
use crate::presence::subscription::{Snapshot, Status};

const NUMBERS: usize = 8;
const HEAD: usize = 8 + NUMBERS * 4;

/// The block; freed when dropped.
pub struct NotifiedSubscription(NonNull<u8>);

impl NotifiedSubscription {
    /// Keeps a NOTIFY's token and subscription; `None` without memory for it.
    pub fn new(notify: &Notify<'_>) -> Option<NotifiedSubscription> {
        let subscription = notify.subscription;
        let text = subscription.block();
        let numbers: [u32; NUMBERS] = [
            u32::try_from(text.len()).ok()?,
            u32::from(subscription.package.0),
            subscription.remote_cseq.0,
            notify.cseq.0,
            subscription.version,
            subscription.expires,
            subscription.status as u32,
            subscription.flags,
        ];
        let mut block = Vec::with_capacity(HEAD + text.len());
        block.extend_from_slice(&notify.token.to_le_bytes());
        for number in numbers {
            block.extend_from_slice(&number.to_le_bytes());
        }
        block.extend_from_slice(text);
        shm_copy(&block).map(NotifiedSubscription)
    }

    /// For tm to carry; still ours.
    pub fn as_ptr(&self) -> *mut c_void {
        self.0.as_ptr().cast()
    }

    /// Leaves it to the callback.
    pub fn hand_over(self) {
        std::mem::forget(self);
    }

    /// Takes back what was handed over; `None` for NULL.
    ///
    /// # Safety
    /// `block` is NULL or was handed over and not taken back yet.
    pub unsafe fn take_back(block: *mut c_void) -> Option<NotifiedSubscription> {
        NonNull::new(block.cast()).map(NotifiedSubscription)
    }

    /// The token and the subscription.
    pub fn read(&self) -> (u64, Snapshot) {
        // SAFETY: `new` has written a head of this size, whose first number
        // is the length of the text behind it; nobody changes it.
        let (head, text) = unsafe {
            let head: [u8; HEAD] = self.0.cast().read();
            let length = u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize;
            (head, std::slice::from_raw_parts(self.0.add(HEAD).as_ptr(), length))
        };
        let mut token = [0; 8];
        token.copy_from_slice(&head[..8]);
        let number = |n: usize| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&head[8 + n * 4..12 + n * 4]);
            u32::from_le_bytes(bytes)
        };
        let package = PackageId(u16::try_from(number(1)).unwrap_or(u16::MAX));
        let mut subscription = Snapshot::new(package, text.to_vec());
        subscription.remote_cseq = CSeq(number(2));
        subscription.local_cseq = CSeq(number(3));
        subscription.version = number(4);
        subscription.expires = number(5);
        subscription.status = Status::from_number(i64::from(number(6)));
        subscription.flags = number(7);
        (u64::from_le_bytes(token), subscription)
    }
}

impl Drop for NotifiedSubscription {
    fn drop(&mut self) {
        // SAFETY: the block came from shm_malloc and is still ours.
        unsafe { sys::kshim_shm_free(self.as_ptr()) };
    }
}

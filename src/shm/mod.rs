//! Containers that live in memory shared by forked processes.
//!
//! Several processes map the same memory at the same address and were forked
//! from one parent that had loaded this library. So raw pointers, function
//! pointers and `&'static` references are valid in all of them, and a value
//! made before the fork may be used by everybody after it. None of it outlives
//! a restart. The layer knows nothing of the host: where memory comes from is
//! an [`Arena`], how processes exclude each other is a `lock_api::RawMutex`;
//! the two travel together as a [`Memory`].
//!
//! ```text
//! Arena      the host's allocator: slow, 8-byte aligned, asked for big blocks
//!  PagePool  512 KiB chunks, cut in runs of 4 KiB pages; one for all heaps
//!   Heap     slots of 41 sizes, 8-byte aligned; one for some lock shards
//!    Blob, Slab, HashIndex, Wheel, Interner (List and Queue need no memory)
//! ```
//!
//! # Rules
//!
//! * **Everything can fail.** Whatever allocates returns [`OutOfMemory`], or
//!   gives the value back, and leaves the container as it was. Allocate first,
//!   swap after.
//! * **Memory goes back.** A page without a used slot returns to the pool, a
//!   chunk without a used page to the arena, save the reserve that the pool was
//!   created with. An empty container owns nothing (a [`Wheel`] keeps its
//!   buckets).
//! * **Nothing private to a process** is stored or relied on: no
//!   `thread_local`, no `std::sync` lock, no hasher with a global seed, no
//!   pointer to the process's own heap. `Box`, `Vec` and `String` of `std`
//!   therefore never go into a record. No marker trait enforces this: `Send`
//!   does not tell a shared from a private pointer, and a trait of our own
//!   could only be implemented by hand for the few record types, which proves
//!   nothing that reading their fields does not.
//! * **Locks by closure, and short.** Only [`PagePool`] and [`Heap`] lock by
//!   themselves, in the order heap, pool, arena, and hold nothing else. The
//!   other containers take `&mut self` and belong into a `lock_api::Mutex` of
//!   their shard. The locks are not robust: closures run under one must not
//!   panic, block or call out.
//! * **`unsafe` stays in** `arena`, `place`, `pages`, `heap`, `allocator`,
//!   `blob` and `force_unlock`. The slab, the lists, the wheel, the index and the
//!   interner are safe code: used wrongly they answer wrongly, and no more.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod allocator;
mod arena;
mod blob;
mod force_unlock;
mod hash;
mod heap;
mod heap_arena;
mod id;
mod index;
mod interner;
mod list;
mod pages;
mod place;
mod queue;
mod short;
mod slab;
mod wheel;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use allocator::HeapAllocator;
pub use arena::{Arena, Memory, OutOfMemory};
pub use blob::Blob;
pub use force_unlock::force_unlock;
pub use hash::KeyedHash;
pub use heap::{Heap, HeapUsage};
pub use heap_arena::HeapArena;
pub use id::{Id, Key};
pub use index::HashIndex;
pub use interner::{Interned, Interner};
pub use list::{Counter, Linked, Links, List, Nodes, Uncounted};
pub use pages::{PAGE_SIZE, PagePool, PoolUsage};
pub use place::{place, place_slice};
pub use queue::{Queue, QueueLink, Queueable};
pub use short::ShortBlob;
pub use slab::{Generation, Slab, Unkeyed};
#[cfg(test)]
pub use testing::TestMemory;
pub use wheel::{InWheel, Timed, Timer, Wheel};

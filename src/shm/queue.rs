//! Queues of elements that live elsewhere.

use core::fmt;
use core::marker::PhantomData;

use super::id::Id;
use super::list::Nodes;

/// An element that can wait in one queue of kind `L`; see
/// [`Linked`](super::Linked) for kinds.
pub trait Queueable<L>: Sized {
    /// The link of this kind.
    fn queue_link(&self) -> &QueueLink<Self>;
    /// The link of this kind, to be changed.
    fn queue_link_mut(&mut self) -> &mut QueueLink<Self>;
}

/// Who waits behind an element; four bytes.
pub struct QueueLink<T>(Option<Id<T>>);

impl<T> QueueLink<T> {
    /// Nobody.
    pub const fn new() -> Self {
        Self(None)
    }
}

impl<T> Default for QueueLink<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for QueueLink<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Behind").field(&self.0).finish()
    }
}

/// First in, first out. Half of what a [`List`](super::List) costs each element,
/// but nothing leaves it from the middle.
///
/// The nodes must be the same each time. An element must not be added while it
/// waits, nor leave its nodes: those behind it would be forgotten.
pub struct Queue<T, L> {
    ends: Option<(Id<T>, Id<T>)>,
    kind: PhantomData<fn() -> L>,
}

impl<T: Queueable<L>, L> Queue<T, L> {
    /// An empty queue.
    pub const fn new() -> Self {
        Self { ends: None, kind: PhantomData }
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.ends.is_none()
    }

    /// Adds an element at the end. Says `false` if there is no such element.
    pub fn push_back(&mut self, nodes: &mut impl Nodes<T>, id: Id<T>) -> bool {
        let Some(element) = nodes.node_mut(id) else { return false };
        *element.queue_link_mut() = QueueLink::new();
        self.ends = match self.ends {
            Some((first, last)) => {
                if let Some(last) = nodes.node_mut(last) {
                    *last.queue_link_mut() = QueueLink(Some(id));
                }
                Some((first, id))
            }
            None => Some((id, id)),
        };
        true
    }

    /// Takes the first element out.
    pub fn pop_front(&mut self, nodes: &impl Nodes<T>) -> Option<Id<T>> {
        let (first, last) = self.ends?;
        let next = nodes.node(first).and_then(|element| element.queue_link().0);
        self.ends = next.filter(|_| first != last).map(|next| (next, last));
        Some(first)
    }
}

impl<T: Queueable<L>, L> Default for Queue<T, L> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, L> fmt::Debug for Queue<T, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Queue").field(&self.ends).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;
    use crate::shm::Slab;
    use crate::shm::testing::{Rig, TestMemory};

    #[derive(Default)]
    struct Node(QueueLink<Node>);
    struct Waiting;

    impl Queueable<Waiting> for Node {
        fn queue_link(&self) -> &QueueLink<Self> {
            &self.0
        }
        fn queue_link_mut(&mut self) -> &mut QueueLink<Self> {
            &mut self.0
        }
    }

    proptest! {
        #[test]
        fn who_comes_first_leaves_first(ops in prop::collection::vec((any::<bool>(), 0usize..8), 1..100)) {
            let rig = Rig::new(0);
            let mut nodes = Slab::<Node, TestMemory>::new(rig.heap);
            let ids: Vec<_> = (0..8).map(|_| nodes.insert(Node::default()).ok().unwrap()).collect();
            let (mut queue, mut model) = (Queue::<Node, Waiting>::new(), VecDeque::new());
            for (push, which) in ops {
                let id = ids[which];
                if push && !model.contains(&id) {
                    prop_assert!(queue.push_back(&mut nodes, id));
                    model.push_back(id);
                } else {
                    prop_assert_eq!(queue.pop_front(&nodes), model.pop_front());
                }
                prop_assert_eq!(queue.is_empty(), model.is_empty());
            }
        }
    }

    #[test]
    fn is_small_and_stands_what_is_gone() {
        assert_eq!(size_of::<QueueLink<Node>>(), 4);
        let rig = Rig::new(0);
        let mut nodes = Slab::<Node, TestMemory>::new(rig.heap);
        let ids: Vec<_> = (0..2).map(|_| nodes.insert(Node::default()).ok().unwrap()).collect();
        let mut queue = Queue::<Node, Waiting>::new();
        assert!(queue.push_back(&mut nodes, ids[0]) && queue.push_back(&mut nodes, ids[1]));
        assert!(nodes.remove(ids[0]).is_some());
        assert!(!queue.push_back(&mut nodes, ids[0]));
        assert_eq!(queue.pop_front(&nodes), Some(ids[0]));
        assert_eq!(queue.pop_front(&nodes), None);
    }
}

//! Doubly linked lists of elements that live elsewhere.

use core::fmt;
use core::iter;
use core::marker::PhantomData;

use super::arena::Memory;
use super::id::Id;
use super::slab::{Generation, Slab};

/// Where a list finds its elements.
pub trait Nodes<T> {
    /// The element of this id.
    fn node(&self, id: Id<T>) -> Option<&T>;
    /// The element of this id, to be changed.
    fn node_mut(&mut self, id: Id<T>) -> Option<&mut T>;
    /// How many elements there are.
    fn count(&self) -> usize;
}

impl<T, M: Memory, G: Generation> Nodes<T> for Slab<T, M, G> {
    fn node(&self, id: Id<T>) -> Option<&T> {
        self.get(id)
    }

    fn node_mut(&mut self, id: Id<T>) -> Option<&mut T> {
        self.get_mut(id)
    }

    fn count(&self) -> usize {
        self.len()
    }
}

/// An element that can be in one list of kind `L`.
///
/// `L` is a marker: an element that implements this for several markers, each
/// with [`Links`] of its own, can be in as many lists at once.
pub trait Linked<L>: Sized {
    /// The links of this kind.
    fn links(&self) -> &Links<Self>;
    /// The links of this kind, to be changed.
    fn links_mut(&mut self) -> &mut Links<Self>;
}

/// An element's neighbours in a list; eight bytes. The last one is followed by
/// the first.
pub struct Links<T> {
    /// [`Id::RESERVED`] while the element is in no list.
    prev: Id<T>,
    next: Id<T>,
}

impl<T> Links<T> {
    /// The links of an element that is in no list.
    pub const fn new() -> Self {
        Self { prev: Id::RESERVED, next: Id::RESERVED }
    }

    /// Whether the element is in a list.
    pub fn is_linked(&self) -> bool {
        self.prev != Id::RESERVED
    }
}

impl<T> Default for Links<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Links<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let neighbours = self.is_linked().then_some((self.prev, self.next));
        f.debug_tuple("Links").field(&neighbours).finish()
    }
}

/// How a list counts its elements.
pub trait Counter: Copy + Default {
    /// One more.
    fn more(self) -> Self;
    /// One less.
    fn less(self) -> Self;
    /// The most elements that there can be, of `count` that may be in lists.
    fn most(self, count: usize) -> usize;
}

impl Counter for u32 {
    fn more(self) -> Self {
        self.saturating_add(1)
    }

    fn less(self) -> Self {
        self.saturating_sub(1)
    }

    fn most(self, _: usize) -> usize {
        self as usize
    }
}

/// The list does not know how many elements it has.
#[derive(Debug, Clone, Copy, Default)]
pub struct Uncounted;

impl Counter for Uncounted {
    fn more(self) -> Self {
        self
    }

    fn less(self) -> Self {
        self
    }

    fn most(self, count: usize) -> usize {
        count
    }
}

/// A list of kind `L` over the elements of one [`Nodes`]; eight bytes, or four
/// if it is [`Uncounted`].
///
/// Every operation takes these nodes; they must be the same each time, and an
/// element must leave its list before it leaves them. A list that finds an
/// element gone, or in another list, ends there: the answer is then wrong, but
/// no operation goes astray.
pub struct List<T, L, C = u32> {
    head: Option<Id<T>>,
    /// Bounds every walk.
    len: C,
    kind: PhantomData<fn() -> L>,
}

impl<T, L> List<T, L> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len as usize
    }
}

impl<T, L> List<T, L, Uncounted> {
    /// The list whose first element is this one; its owner keeps only that.
    pub fn starting_at(front: Option<Id<T>>) -> Self {
        Self { head: front, len: Uncounted, kind: PhantomData }
    }
}

impl<T: Linked<L>, L, C: Counter> List<T, L, C> {
    /// An empty list.
    pub fn new() -> Self {
        Self { head: None, len: C::default(), kind: PhantomData }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// The first element.
    pub fn front(&self) -> Option<Id<T>> {
        self.head
    }

    /// The last element.
    pub fn back(&self, nodes: &impl Nodes<T>) -> Option<Id<T>> {
        neighbours::<T, L>(nodes, self.head?).map(|links| links.0)
    }

    /// The element after `id`.
    pub fn next(&self, nodes: &impl Nodes<T>, id: Id<T>) -> Option<Id<T>> {
        neighbours::<T, L>(nodes, id).map(|links| links.1).filter(|&next| Some(next) != self.head)
    }

    /// Adds an element at the end. Does nothing and says `false` if there is no
    /// such element, or if it is in a list of this kind already.
    pub fn push_back(&mut self, nodes: &mut impl Nodes<T>, id: Id<T>) -> bool {
        let linked = self.link(nodes, id);
        if linked && self.head.is_none() {
            self.head = Some(id);
        }
        linked
    }

    /// Adds an element at the start; otherwise as [`push_back`](Self::push_back).
    pub fn push_front(&mut self, nodes: &mut impl Nodes<T>, id: Id<T>) -> bool {
        let linked = self.link(nodes, id);
        if linked {
            self.head = Some(id);
        }
        linked
    }

    /// Takes an element out. Does nothing and says `false` if it is in no list
    /// of this kind.
    pub fn unlink(&mut self, nodes: &mut impl Nodes<T>, id: Id<T>) -> bool {
        let Some((prev, next)) = neighbours::<T, L>(nodes, id) else { return false };
        let alone = next == id;
        let Some(head) = self.head.filter(|&head| head == id || !alone) else { return false };
        if let Some(links) = nodes.node_mut(id).map(T::links_mut) {
            *links = Links::new();
        }
        if !alone {
            set_next::<T, L>(nodes, prev, next);
            set_prev::<T, L>(nodes, next, prev);
        }
        if head == id {
            self.head = (!alone).then_some(next);
        }
        self.len = self.len.less();
        true
    }

    /// Takes the first element out.
    pub fn pop_front(&mut self, nodes: &mut impl Nodes<T>) -> Option<Id<T>> {
        let id = self.head?;
        if self.unlink(nodes, id) {
            return Some(id);
        }
        debug_assert!(false, "{id:?} left its nodes before its list");
        *self = Self::new();
        None
    }

    /// The elements, from first to last.
    pub fn iter<'n, N: Nodes<T>>(&self, nodes: &'n N) -> impl Iterator<Item = (Id<T>, &'n T)>
    where
        T: 'n,
    {
        let head = self.head;
        let mut at = head;
        iter::from_fn(move || {
            let id = at?;
            let element = nodes.node(id)?;
            at = Some(element.links().next).filter(|next| Some(*next) != head);
            Some((id, element))
        })
        .take(self.len.most(nodes.count()))
    }

    /// The elements, from last to first.
    pub fn iter_back<'n, N: Nodes<T>>(&self, nodes: &'n N) -> impl Iterator<Item = (Id<T>, &'n T)>
    where
        T: 'n,
    {
        let head = self.head;
        let mut at = self.back(nodes);
        iter::from_fn(move || {
            let id = at?;
            let element = nodes.node(id)?;
            at = Some(element.links().prev).filter(|_| Some(id) != head);
            Some((id, element))
        })
        .take(self.len.most(nodes.count()))
    }

    /// Calls `visit` for each element, from first to last. It may change the
    /// element, but not its links.
    pub fn for_each_mut(&self, nodes: &mut impl Nodes<T>, mut visit: impl FnMut(Id<T>, &mut T)) {
        let mut at = self.head;
        for _ in 0..self.len.most(nodes.count()) {
            let Some((id, element)) = at.and_then(|id| Some((id, nodes.node_mut(id)?))) else {
                return;
            };
            at = Some(element.links().next).filter(|next| Some(*next) != self.head);
            visit(id, element);
        }
    }

    /// Puts an element between the last and the first, which stays the first.
    fn link(&mut self, nodes: &mut impl Nodes<T>, id: Id<T>) -> bool {
        let ends = self.head.and_then(|head| Some((neighbours::<T, L>(nodes, head)?.0, head)));
        let (prev, next) = match (ends, self.head) {
            (Some(ends), _) => ends,
            (None, None) => (id, id),
            // The first one is gone, and the others with it.
            (None, Some(_)) => {
                *self = Self::new();
                (id, id)
            }
        };
        match nodes.node_mut(id).map(T::links_mut) {
            Some(links) if !links.is_linked() => *links = Links { prev, next },
            _ => return false,
        }
        if prev != id {
            set_next::<T, L>(nodes, prev, id);
            set_prev::<T, L>(nodes, next, id);
        }
        self.len = self.len.more();
        true
    }
}

/// What comes before and after an element that is in a list.
fn neighbours<T: Linked<L>, L>(nodes: &impl Nodes<T>, id: Id<T>) -> Option<(Id<T>, Id<T>)> {
    let links = nodes.node(id)?.links();
    links.is_linked().then_some((links.prev, links.next))
}

fn set_next<T: Linked<L>, L>(nodes: &mut impl Nodes<T>, at: Id<T>, next: Id<T>) {
    if let Some(element) = nodes.node_mut(at) {
        element.links_mut().next = next;
    }
}

fn set_prev<T: Linked<L>, L>(nodes: &mut impl Nodes<T>, at: Id<T>, prev: Id<T>) {
    if let Some(element) = nodes.node_mut(at) {
        element.links_mut().prev = prev;
    }
}

impl<T: Linked<L>, L, C: Counter> Default for List<T, L, C> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, L, C: fmt::Debug> fmt::Debug for List<T, L, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "List({:?}, {:?})", self.head, self.len)
    }
}

#[cfg(test)]
mod tests;

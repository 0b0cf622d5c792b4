//! Doubly linked lists of elements that live elsewhere.

use core::fmt;
use core::iter;
use core::marker::PhantomData;

use super::arena::Memory;
use super::id::Id;
use super::slab::Slab;

/// Where a list finds its elements.
pub trait Nodes<T> {
    /// The element of this id.
    fn node(&self, id: Id<T>) -> Option<&T>;
    /// The element of this id, to be changed.
    fn node_mut(&mut self, id: Id<T>) -> Option<&mut T>;
}

impl<T, M: Memory> Nodes<T> for Slab<T, M> {
    fn node(&self, id: Id<T>) -> Option<&T> {
        self.get(id)
    }

    fn node_mut(&mut self, id: Id<T>) -> Option<&mut T> {
        self.get_mut(id)
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

/// An element's neighbours in a list; eight bytes.
pub struct Links<T> {
    /// [`Id::RESERVED`] while the element is in no list.
    prev: Option<Id<T>>,
    next: Option<Id<T>>,
}

impl<T> Links<T> {
    /// The links of an element that is in no list.
    pub const fn new() -> Self {
        Self { prev: Some(Id::RESERVED), next: None }
    }

    /// Whether the element is in a list.
    pub fn is_linked(&self) -> bool {
        self.prev != Some(Id::RESERVED)
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

/// A list of kind `L` over the elements of one [`Nodes`].
///
/// Every operation takes these nodes; they must be the same each time, and an
/// element must leave its list before it leaves them. A list that finds an
/// element gone, or in another list, ends there: the answer is then wrong, but
/// no operation goes astray.
pub struct List<T, L> {
    head: Option<Id<T>>,
    tail: Option<Id<T>>,
    len: u32,
    kind: PhantomData<fn() -> L>,
}

impl<T: Linked<L>, L> List<T, L> {
    /// An empty list.
    pub const fn new() -> Self {
        Self { head: None, tail: None, len: 0, kind: PhantomData }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len as usize
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
    pub fn back(&self) -> Option<Id<T>> {
        self.tail
    }

    /// The element after `id`.
    pub fn next(&self, nodes: &impl Nodes<T>, id: Id<T>) -> Option<Id<T>> {
        nodes.node(id).map(T::links).filter(|links| links.is_linked())?.next
    }

    /// Adds an element at the end. Does nothing and says `false` if there is no
    /// such element, or if it is in a list of this kind already.
    pub fn push_back(&mut self, nodes: &mut impl Nodes<T>, id: Id<T>) -> bool {
        self.link(nodes, id, self.tail, None)
    }

    /// Adds an element at the start; otherwise as [`push_back`](Self::push_back).
    pub fn push_front(&mut self, nodes: &mut impl Nodes<T>, id: Id<T>) -> bool {
        self.link(nodes, id, None, self.head)
    }

    /// Takes an element out. Does nothing and says `false` if it is in no list
    /// of this kind.
    pub fn unlink(&mut self, nodes: &mut impl Nodes<T>, id: Id<T>) -> bool {
        let Some(links) = nodes.node_mut(id).map(T::links_mut) else { return false };
        let Links { prev, next } = *links;
        let foreign =
            (prev.is_none() && self.head != Some(id)) || (next.is_none() && self.tail != Some(id));
        if !links.is_linked() || foreign {
            return false;
        }
        *links = Links::new();
        self.set_next(nodes, prev, next);
        self.set_prev(nodes, next, prev);
        self.len = self.len.saturating_sub(1);
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
        let mut at = self.head;
        iter::from_fn(move || {
            let id = at?;
            let element = nodes.node(id)?;
            at = element.links().next;
            Some((id, element))
        })
        .take(self.len())
    }

    /// Calls `visit` for each element, from first to last. It may change the
    /// element, but not its links.
    pub fn for_each_mut(&self, nodes: &mut impl Nodes<T>, mut visit: impl FnMut(Id<T>, &mut T)) {
        let mut at = self.head;
        for _ in 0..self.len {
            let Some((id, element)) = at.and_then(|id| Some((id, nodes.node_mut(id)?))) else {
                return;
            };
            at = element.links().next;
            visit(id, element);
        }
    }

    /// Puts an element between two neighbours, or at an end.
    fn link(
        &mut self,
        nodes: &mut impl Nodes<T>,
        id: Id<T>,
        prev: Option<Id<T>>,
        next: Option<Id<T>>,
    ) -> bool {
        match nodes.node_mut(id).map(T::links_mut) {
            Some(links) if !links.is_linked() => *links = Links { prev, next },
            _ => return false,
        }
        self.set_next(nodes, prev, Some(id));
        self.set_prev(nodes, next, Some(id));
        self.len += 1;
        true
    }

    /// Lets `next` follow `at`, or be the first if `at` is nothing.
    fn set_next(&mut self, nodes: &mut impl Nodes<T>, at: Option<Id<T>>, next: Option<Id<T>>) {
        match at {
            None => self.head = next,
            Some(at) => {
                if let Some(element) = nodes.node_mut(at) {
                    element.links_mut().next = next;
                }
            }
        }
    }

    /// Lets `prev` precede `at`, or be the last if `at` is nothing.
    fn set_prev(&mut self, nodes: &mut impl Nodes<T>, at: Option<Id<T>>, prev: Option<Id<T>>) {
        match at {
            None => self.tail = prev,
            Some(at) => {
                if let Some(element) = nodes.node_mut(at) {
                    element.links_mut().prev = prev;
                }
            }
        }
    }
}

impl<T: Linked<L>, L> Default for List<T, L> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, L> fmt::Debug for List<T, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "List({:?}..{:?}, {})", self.head, self.tail, self.len)
    }
}

#[cfg(test)]
mod tests;

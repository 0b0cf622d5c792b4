use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::shm::testing::{Rig, TestMemory};

struct Red;
struct Blue;

#[derive(Default)]
struct Node {
    red: Links<Node>,
    blue: Links<Node>,
    visits: u32,
}

impl Linked<Red> for Node {
    fn links(&self) -> &Links<Self> {
        &self.red
    }
    fn links_mut(&mut self) -> &mut Links<Self> {
        &mut self.red
    }
}

impl Linked<Blue> for Node {
    fn links(&self) -> &Links<Self> {
        &self.blue
    }
    fn links_mut(&mut self) -> &mut Links<Self> {
        &mut self.blue
    }
}

type Nodes = Slab<Node, TestMemory>;

fn nodes(rig: &Rig, count: usize) -> (Nodes, Vec<Id<Node>>) {
    let mut nodes = Slab::new(rig.heap);
    let ids = (0..count).map(|_| nodes.insert(Node::default()).ok().unwrap()).collect();
    (nodes, ids)
}

fn check<L>(list: &List<Node, L>, nodes: &mut Nodes, model: &VecDeque<Id<Node>>)
where
    Node: Linked<L>,
{
    assert!(list.iter(nodes).map(|(id, _)| id).eq(model.iter().copied()));
    assert_eq!((list.len(), list.is_empty()), (model.len(), model.is_empty()));
    assert_eq!((list.front(), list.back(nodes)), (model.front().copied(), model.back().copied()));
    assert!(list.iter_back(nodes).map(|(id, _)| id).eq(model.iter().rev().copied()));
    for (&one, &next) in model.iter().zip(model.iter().skip(1)) {
        assert_eq!(list.next(nodes, one), Some(next));
    }
    let mut seen = VecDeque::new();
    list.for_each_mut(nodes, |id, node| {
        node.visits += 1;
        seen.push_back(id);
    });
    assert_eq!(seen, *model);
}

const COUNT: usize = 12;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn lists_of_two_kinds_behave_as_deques(ops in prop::collection::vec((0u8..5, 0..COUNT), 1..200)) {
        let rig = Rig::new(0);
        let (mut nodes, ids) = nodes(&rig, COUNT);
        let (mut red, mut blue) = (List::<Node, Red>::new(), List::<Node, Blue>::new());
        let (mut red_model, mut blue_model) = (VecDeque::new(), VecDeque::new());
        for (n, (op, which)) in ops.into_iter().enumerate() {
            let id = ids[which];
            if n % 3 == 0 {
                step(&mut blue, &mut nodes, &mut blue_model, op, id);
            } else {
                step(&mut red, &mut nodes, &mut red_model, op, id);
            }
            check(&red, &mut nodes, &red_model);
            check(&blue, &mut nodes, &blue_model);
        }
    }
}

fn step<L>(
    list: &mut List<Node, L>,
    nodes: &mut Nodes,
    model: &mut VecDeque<Id<Node>>,
    op: u8,
    id: Id<Node>,
) where
    Node: Linked<L>,
{
    let at = model.iter().position(|&other| other == id);
    match op {
        0 | 1 => {
            assert_eq!(list.push_back(nodes, id), at.is_none());
            if at.is_none() {
                model.push_back(id);
            }
        }
        2 => {
            assert_eq!(list.push_front(nodes, id), at.is_none());
            if at.is_none() {
                model.push_front(id);
            }
        }
        3 => {
            assert_eq!(list.unlink(nodes, id), at.is_some());
            at.map(|at| model.remove(at));
        }
        _ => assert_eq!(list.pop_front(nodes), model.pop_front()),
    }
}

#[test]
fn sizes() {
    assert_eq!(size_of::<Links<Node>>(), 8);
    assert_eq!(size_of::<List<Node, Red>>(), 8);
}

#[test]
fn an_end_of_another_list_and_an_absent_element_are_refused() {
    let rig = Rig::new(0);
    let (mut nodes, ids) = nodes(&rig, 3);
    let (mut one, mut other) = (List::<Node, Red>::new(), List::<Node, Red>::new());
    assert!(one.push_back(&mut nodes, ids[0]) && one.push_back(&mut nodes, ids[1]));
    assert!(!other.unlink(&mut nodes, ids[0]) && !other.unlink(&mut nodes, ids[1]));
    assert!(!other.push_back(&mut nodes, ids[0]));
    assert!(nodes.remove(ids[2]).is_some());
    assert!(!other.push_front(&mut nodes, ids[2]) && !other.unlink(&mut nodes, ids[2]));
    check(&one, &mut nodes, &VecDeque::from([ids[0], ids[1]]));
    check(&other, &mut nodes, &VecDeque::new());
}

#[test]
fn a_list_whose_element_is_gone_ends_there() {
    let rig = Rig::new(0);
    let (mut nodes, ids) = nodes(&rig, 3);
    let mut list = List::<Node, Red>::new();
    ids.iter().for_each(|&id| assert!(list.push_back(&mut nodes, id)));
    assert!(nodes.remove(ids[1]).is_some());
    assert_eq!(list.iter(&nodes).count(), 1);
    assert!(list.unlink(&mut nodes, ids[2]));
    assert_eq!(list.pop_front(&mut nodes), Some(ids[0]));
}

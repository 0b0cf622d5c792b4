//! Starting requests, and what is done with each datagram and timer.

use super::timers::T1;
use super::wire::{self, Incoming, Publish, Subscribe};
use super::{Load, Operation, STATES, Slot};
use std::cmp::Reverse;
use std::time::Instant;

impl Load {
    /// A free slot, marked as used.
    fn claim(&mut self, operation: Operation) -> u32 {
        self.active += 1;
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                operation: None,
                bytes: Vec::new(),
                started: Instant::now(),
                sent_again: 0,
                replied: false,
                awaiting: 0,
                state: 0,
            });
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[number as usize];
        slot.generation = slot.generation.wrapping_add(1);
        slot.operation = Some(operation);
        slot.bytes.clear();
        slot.sent_again = 0;
        slot.replied = false;
        slot.awaiting = 0;
        slot.state = 0;
        number
    }

    /// Whether a request of the same party is on its way.
    pub(super) fn busy(&mut self, operation: Operation) -> &mut bool {
        match operation {
            Operation::Publish(source)
            | Operation::RefreshPublication(source)
            | Operation::RemovePublication(source) => &mut self.sources[source as usize].is_busy,
            Operation::Subscribe(watcher)
            | Operation::Refresh(watcher)
            | Operation::Unsubscribe(watcher)
            | Operation::Unknown(watcher) => &mut self.watchers[watcher as usize].is_busy,
        }
    }

    /// Sends the request of an operation.
    pub(super) fn start(&mut self, operation: Operation) {
        let number = self.claim(operation);
        *self.busy(operation) = true;
        match operation {
            Operation::Publish(source) => self.write_publish(number, source, true, self.expires),
            Operation::RefreshPublication(source) => {
                self.write_publish(number, source, false, self.expires);
            }
            Operation::RemovePublication(source) => self.write_publish(number, source, false, 0),
            Operation::Subscribe(watcher) => {
                self.new_dialog(watcher);
                self.write_subscribe(number, watcher, self.expires, None);
            }
            Operation::Refresh(watcher) => {
                self.write_subscribe(number, watcher, self.expires, None);
            }
            Operation::Unsubscribe(watcher) => self.write_subscribe(number, watcher, 0, None),
            Operation::Unknown(watcher) => {
                self.write_subscribe(number, watcher, self.expires, Some("bench-unknown-tag"));
            }
        }
        let now = Instant::now();
        let slot = &mut self.slots[number as usize];
        slot.started = now;
        self.socket.send(&slot.bytes);
        self.timers.push(Reverse((now + T1, number, slot.generation)));
        self.tally.started += 1;
        if slot.state > 0 {
            self.published[slot.state as usize % STATES] = now;
        }
    }

    fn new_dialog(&mut self, number: u32) {
        let watcher = &mut self.watchers[number as usize];
        if watcher.alive {
            let presentity = &mut self.presentities[watcher.presentity as usize];
            presentity.watchers = presentity.watchers.saturating_sub(1);
        }
        watcher.epoch += 1;
        watcher.cseq = 0;
        watcher.to_tag = Box::default();
        watcher.notified = 0;
        watcher.vias = [0; 2];
        watcher.state = 0;
        watcher.alive = false;
    }

    fn write_subscribe(&mut self, number: u32, watcher: u32, expires: u32, tag: Option<&str>) {
        let who = &mut self.watchers[watcher as usize];
        let slot = &mut self.slots[number as usize];
        who.cseq += 1;
        if tag.is_none() {
            if self.awaits_notifies {
                slot.awaiting = 1;
            }
            who.pending = Some(number);
        }
        self.writer.subscribe(
            &mut slot.bytes,
            &Subscribe {
                branch: (number, slot.generation),
                watcher,
                epoch: who.epoch,
                presentity: who.presentity,
                cseq: who.cseq,
                to_tag: tag.unwrap_or(&who.to_tag),
                expires,
            },
        );
    }

    fn write_publish(&mut self, number: u32, source: u32, document: bool, expires: u32) {
        let who = &mut self.sources[source as usize];
        let slot = &mut self.slots[number as usize];
        who.cseq += 1;
        if document {
            self.state += 1;
            slot.state = self.state;
            let presentity = &mut self.presentities[who.presentity as usize];
            if self.awaits_notifies && presentity.watchers > 0 {
                slot.awaiting = presentity.watchers;
                presentity.pending = Some(number);
            }
        }
        self.writer.publish(
            &mut slot.bytes,
            &Publish {
                branch: (number, slot.generation),
                source,
                presentity: who.presentity,
                cseq: who.cseq,
                etag: &who.etag,
                expires,
                state: document.then_some(slot.state),
            },
        );
    }

    /// Takes all datagrams that are there.
    pub(super) fn receive_all(&mut self) {
        let mut buffer = [0; 16 * 1024];
        while let Some(length) = self.socket.receive(&mut buffer) {
            let Some(message) = wire::parse(&buffer[..length]) else { continue };
            if message.notify {
                self.out.clear();
                message.ok(&mut self.out);
                self.socket.send(&self.out);
                self.take_notify(&message);
            } else if message.status >= 200 {
                self.take_reply(&message);
            }
        }
    }

    fn take_reply(&mut self, reply: &Incoming<'_>) {
        let Some((number, generation)) = reply.branch() else { return };
        let Some(slot) = self.slots.get_mut(number as usize) else { return };
        if slot.generation != generation || slot.replied {
            return;
        }
        let Some(operation) = slot.operation else { return };
        slot.replied = true;
        self.tally.reply.add(slot.started.elapsed());
        *self.tally.statuses.entry(reply.status).or_default() += 1;
        let good = match operation {
            Operation::Unknown(_) => reply.status == 481,
            _ => reply.status < 300,
        };
        if !good {
            self.tally.refused += 1;
            if let Operation::Publish(source) | Operation::RefreshPublication(source) = operation
                && reply.status == 412
            {
                self.sources[source as usize].etag = Box::default();
            }
            self.end(number);
            return;
        }
        let (state, awaiting) = (slot.state, slot.awaiting);
        self.accepted(operation, reply, state);
        if awaiting == 0 {
            self.tally.done += 1;
            self.end(number);
        }
    }

    fn accepted(&mut self, operation: Operation, reply: &Incoming<'_>, state: u32) {
        match operation {
            Operation::Publish(source) | Operation::RefreshPublication(source) => {
                let source = &mut self.sources[source as usize];
                source.etag = std::str::from_utf8(reply.etag).unwrap_or_default().into();
                let presentity = &mut self.presentities[source.presentity as usize];
                presentity.state = presentity.state.max(state);
            }
            Operation::RemovePublication(source) => {
                self.sources[source as usize].etag = Box::default();
            }
            Operation::Subscribe(watcher) => {
                let watcher = &mut self.watchers[watcher as usize];
                watcher.to_tag = reply.to_tag().into();
                watcher.alive = true;
                self.presentities[watcher.presentity as usize].watchers += 1;
            }
            Operation::Unsubscribe(watcher) => self.bury(watcher),
            Operation::Refresh(_) | Operation::Unknown(_) => {}
        }
    }

    fn bury(&mut self, watcher: u32) {
        let watcher = &mut self.watchers[watcher as usize];
        if std::mem::take(&mut watcher.alive) {
            let presentity = &mut self.presentities[watcher.presentity as usize];
            presentity.watchers = presentity.watchers.saturating_sub(1);
        }
    }

    fn take_notify(&mut self, notify: &Incoming<'_>) {
        let Some((number, epoch)) = notify.dialog() else {
            self.tally.strays += 1;
            return;
        };
        let watcher = match self.watchers.get_mut(number as usize) {
            Some(watcher) if watcher.epoch == epoch => watcher,
            _ => {
                self.tally.strays += 1;
                return;
            }
        };
        let (cseq, via) = (notify.cseq(), notify.via_hash());
        if watcher.vias.contains(&via) {
            self.tally.repeated += 1;
            return;
        }
        watcher.vias = [via, watcher.vias[0]];
        self.tally.notifies += 1;
        let state = wire::state_in(notify.body);
        if self.checks_order {
            if cseq == watcher.notified {
                self.tally.cseq_reused += 1;
            } else if cseq < watcher.notified {
                self.tally.cseq_backwards += 1;
            } else if state > 0 && state < watcher.state {
                self.tally.older_state += 1;
            }
        }
        watcher.notified = watcher.notified.max(cseq);
        let seen = watcher.state;
        watcher.state = seen.max(state);
        let (presentity, pending) = (watcher.presentity, watcher.pending.take());
        if notify.terminated {
            self.tally.terminated += 1;
            self.bury(number);
        }
        if let Some(slot) = pending {
            self.tally.notify.add(self.slots[slot as usize].started.elapsed());
            self.came(slot);
        }
        if state > seen {
            if pending.is_none() {
                self.tally.notify.add(self.published[state as usize % STATES].elapsed());
            }
            if let Some(slot) = self.presentities[presentity as usize].pending {
                let wanted = self.slots[slot as usize].state;
                if seen < wanted && state >= wanted {
                    self.came(slot);
                }
            }
        }
    }

    /// One of the NOTIFYs that a request waits for has come.
    fn came(&mut self, number: u32) {
        let slot = &mut self.slots[number as usize];
        if slot.operation.is_none() || slot.awaiting == 0 {
            return;
        }
        slot.awaiting -= 1;
        if slot.awaiting == 0 && slot.replied {
            self.tally.done += 1;
            self.end(number);
        }
    }

    /// Frees a slot.
    pub(super) fn end(&mut self, number: u32) {
        let Some(operation) = self.slots[number as usize].operation.take() else { return };
        *self.busy(operation) = false;
        match operation {
            Operation::Publish(source) => {
                let presentity = self.sources[source as usize].presentity;
                let pending = &mut self.presentities[presentity as usize].pending;
                if *pending == Some(number) {
                    *pending = None;
                }
            }
            Operation::Subscribe(watcher)
            | Operation::Refresh(watcher)
            | Operation::Unsubscribe(watcher) => {
                let pending = &mut self.watchers[watcher as usize].pending;
                // Without waiting, the NOTIFY that is still to come is that of
                // the request all the same, but its slot is another's now.
                if *pending == Some(number) {
                    *pending = None;
                }
            }
            _ => {}
        }
        self.active -= 1;
        self.free.push(number);
    }
}

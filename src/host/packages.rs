//! Event packages as sibling modules registered them: their callbacks, called
//! with the ownership rules of Kamailio's presence API. Documents are copied
//! in and out; what a callback allocated is freed before we return.

use std::cell::RefCell;
use std::ffi::c_int;
use std::ptr;

use crate::error::Fault;
use crate::host::capi::subs::SubscriptionView;
use crate::host::log::{Printable, log_error};
use crate::host::memory::{Received, Release};
use crate::host::{state, statistics, sys, text};
use crate::ports::Packages;
use crate::presence::event_package::PackageId;
use crate::presence::registry::EventPackageRegistry;
use crate::presence::subscription::{Authorization, Snapshot, Status};

/// The registry and, by id, the structure in shared memory that siblings see.
#[derive(Default)]
pub(super) struct Registered {
    pub(super) registry: EventPackageRegistry,
    pub(super) events: Vec<*mut sys::pres_ev_t>,
}

thread_local! {
    // Filled before the fork; each process then has the same copy.
    static REGISTERED: RefCell<Registered> = RefCell::default();
}

/// Uses what is registered. `body` must not call back into this module.
pub(super) fn registered<R>(body: impl FnOnce(&mut Registered) -> R) -> R {
    REGISTERED.with_borrow_mut(body)
}

/// Statistics of a package that a module has completed. Once processes are to be
/// forked there are no new ones.
pub(super) fn count(package: PackageId, name: &[u8]) {
    if state::server().is_none() {
        statistics::register_package(package, name);
    }
}

/// A copy of the registry: complete once all modules are initialised.
pub fn registry() -> EventPackageRegistry {
    registered(|known| known.registry.clone())
}

/// The structure that siblings know a package by; NULL if there is none.
pub fn structure_of(package: PackageId) -> *mut sys::pres_ev_t {
    registered(|known| known.events.get(usize::from(package.0)).copied()).unwrap_or(ptr::null_mut())
}

/// The package behind a structure that a sibling passed: the very structure,
/// or else one of its name (siblings pass stubs with only a name in it).
///
/// # Safety
/// `event` is NULL or points to a `pres_ev_t`.
pub unsafe fn package_of(event: *const sys::pres_ev_t) -> Option<PackageId> {
    // SAFETY: a sibling passes NULL or a structure whose name is set; it stays
    // during the call.
    let name = unsafe { text::bytes(event.as_ref()?.name) };
    registered(|known| {
        let same = known.events.iter().position(|one| ptr::eq(*one, event));
        match same {
            Some(at) => u16::try_from(at).ok().map(PackageId),
            None => known.registry.exact(&crate::presence::event_package::Event::parse(name)?),
        }
    })
}

/// A package's handlers for requests.
#[derive(Clone, Copy, Default)]
pub struct Handlers {
    /// For PUBLISH (`evs_publ_handl`).
    pub publication: sys::publ_handling_t,
    /// For SUBSCRIBE (`evs_subs_handl`).
    pub subscription: sys::subs_handling_t,
}

/// A package's handlers for requests.
pub fn handlers(package: PackageId) -> Handlers {
    callbacks(package).map_or_else(Handlers::default, |event| Handlers {
        publication: event.evs_publ_handl,
        subscription: event.evs_subs_handl,
    })
}

/// A copy of the structure: the callbacks are called without borrowing it.
fn callbacks(package: PackageId) -> Option<sys::pres_ev_t> {
    // SAFETY: registered structures stay in shared memory while the server
    // runs and change only before the fork.
    unsafe { structure_of(package).as_ref().copied() }
}

/// Bytes that a callback may look at as a C string, or change in place.
struct Lent {
    bytes: Vec<u8>,
    text: sys::_str,
}

impl Lent {
    fn new(content: &[u8]) -> Box<Lent> {
        let mut bytes = Vec::with_capacity(content.len() + 1);
        bytes.extend_from_slice(content);
        bytes.push(0);
        let mut lent = Box::new(Lent { bytes, text: text::lend(content) });
        lent.text.s = lent.bytes.as_mut_ptr().cast();
        lent
    }

    /// What the callback made of it: it may have changed it in place.
    fn now(&self) -> &[u8] {
        let length = usize::try_from(self.text.len).unwrap_or(0);
        self.bytes.get(..length).unwrap_or(&self.bytes)
    }
}

/// Calls sibling modules.
#[derive(Debug, Default)]
pub struct SiblingPackages;

impl Packages for SiblingPackages {
    fn aggregate(
        &mut self,
        package: PackageId,
        user: &[u8],
        domain: &[u8],
        bodies: &[&[u8]],
        closing: Option<usize>,
    ) -> Option<Vec<u8>> {
        let event = callbacks(package)?;
        let aggregate = event.agg_nbody?;
        let (mut user, mut domain) = (Lent::new(user), Lent::new(domain));
        let mut bodies: Vec<Box<Lent>> = bodies.iter().map(|body| Lent::new(body)).collect();
        // presence_xml replaces the pointer of the closing one, and on failure
        // leaves NULL there: the array is not used again.
        let mut array: Vec<*mut sys::_str> =
            bodies.iter_mut().map(|body| &raw mut body.text).collect();
        let (pointer, count) = match array.len() {
            // No array asks for the package's document for "nothing published".
            0 => (ptr::null_mut(), 0),
            n => (array.as_mut_ptr(), c_int::try_from(n).ok()?),
        };
        let off_index = closing
            .filter(|at| *at < array.len())
            .and_then(|at| c_int::try_from(at).ok())
            .unwrap_or(-1);
        // SAFETY: all strings and the array outlive the call; the result is a
        // `str` in pkg memory whose bytes the package's free_body frees.
        let document = unsafe {
            let composed =
                aggregate(&raw mut user.text, &raw mut domain.text, pointer, count, off_index);
            Received::take(composed, Release::With(event.free_body))
        }?;
        filled(document.bytes())
    }

    fn personalise(
        &mut self,
        package: PackageId,
        subscription: &Snapshot,
        body: &[u8],
    ) -> Option<Vec<u8>> {
        let event = callbacks(package)?;
        let process = event.aux_body_processing?;
        let mut view =
            SubscriptionView::new(structure_of(subscription.package), subscription, None);
        let mut document = Lent::new(body);
        // SAFETY: the view and the document outlive the call; a result is a
        // `str` in pkg memory whose bytes aux_free_body frees.
        let own = unsafe {
            let own = process(view.as_mut_ptr(), &raw mut document.text);
            Received::take(own, Release::With(event.aux_free_body))
        };
        match own {
            Some(own) => filled(own.bytes()),
            // It may have worked directly in the body that it was given.
            None => Some(document.now()).filter(|now| *now != body).map(<[u8]>::to_vec),
        }
    }

    fn restrict(
        &mut self,
        package: PackageId,
        subscription: &Snapshot,
        rules: &[u8],
        body: &[u8],
    ) -> Result<Option<Vec<u8>>, Fault> {
        let Some(event) = callbacks(package) else { return Ok(None) };
        let Some(apply) = event.apply_auth_nbody else { return Ok(None) };
        let mut view =
            SubscriptionView::new(structure_of(subscription.package), subscription, Some(rules));
        let mut document = Lent::new(body);
        let mut reduced = ptr::null_mut();
        // SAFETY: the view and the document outlive the call; a result is a
        // `str` in pkg memory whose bytes the package's free_body frees.
        let (result, reduced) = unsafe {
            let result = apply(&raw mut document.text, view.as_mut_ptr(), &raw mut reduced);
            (result, Received::take(reduced, Release::With(event.free_body)))
        };
        if result < 0 {
            return Err(failed("apply_auth_nbody", &event));
        }
        Ok(reduced.map(|reduced| reduced.bytes().to_vec()))
    }

    fn rules(
        &mut self,
        package: PackageId,
        user: &[u8],
        domain: &[u8],
    ) -> Result<Option<Vec<u8>>, Fault> {
        let Some(event) = callbacks(package) else { return Ok(None) };
        let Some(get) = event.get_rules_doc else { return Ok(None) };
        let (mut user, mut domain) = (Lent::new(user), Lent::new(domain));
        let mut rules = ptr::null_mut();
        // SAFETY: the strings outlive the call; a document is a `str` with
        // its bytes, both in pkg memory.
        let (result, rules) = unsafe {
            let result = get(&raw mut user.text, &raw mut domain.text, &raw mut rules);
            (result, Received::take(rules, Release::Pkg))
        };
        if result < 0 {
            return Err(failed("get_rules_doc", &event));
        }
        Ok(rules.and_then(|rules| filled(rules.bytes())))
    }

    fn authorize(
        &mut self,
        package: PackageId,
        subscription: &Snapshot,
        rules: Option<&[u8]>,
    ) -> Result<Authorization, Fault> {
        let Some(event) = callbacks(package) else { return Err(Fault::Package) };
        let Some(decide) = event.get_auth_status else { return Ok(Authorization::default()) };
        let mut view =
            SubscriptionView::new(structure_of(subscription.package), subscription, rules);
        // SAFETY: the view outlives the call; status and reason are read from
        // it at once, the reason is a literal or a parameter of the sibling.
        unsafe {
            if decide(view.as_mut_ptr()) < 0 {
                return Err(failed("get_auth_status", &event));
            }
            let decided = &*view.as_mut_ptr();
            Ok(Authorization {
                status: Status::from_number(i64::from(decided.status)),
                reason: text::bytes(decided.reason).to_vec(),
            })
        }
    }

    fn hard_state(
        &mut self,
        package: PackageId,
        user: &[u8],
        domain: &[u8],
        file: &[u8],
    ) -> Result<Option<Vec<u8>>, Fault> {
        hard_state(package, user, domain, file)
    }
}

/// Hard state of a presentity (`get_pidf_doc`).
fn hard_state(
    package: PackageId,
    user: &[u8],
    domain: &[u8],
    file: &[u8],
) -> Result<Option<Vec<u8>>, Fault> {
    let event = callbacks(package).ok_or(Fault::Package)?;
    let get = event.get_pidf_doc.ok_or(Fault::Package)?;
    let (mut user, mut domain, mut file) = (Lent::new(user), Lent::new(domain), Lent::new(file));
    let mut document = ptr::null_mut();
    // SAFETY: the strings outlive the call; a document is a `str` with its
    // bytes, both in pkg memory.
    let (result, document) = unsafe {
        let result =
            get(&raw mut user.text, &raw mut domain.text, &raw mut file.text, &raw mut document);
        (result, Received::take(document, Release::Pkg))
    };
    if result < 0 {
        return Err(failed("get_pidf_doc", &event));
    }
    Ok(document.filter(|_| result > 0).and_then(|document| filled(document.bytes())))
}

/// The document as the package's own module writes it, in the memory that its
/// free_body frees; NULL if it cannot be read.
pub fn merged(package: PackageId, user: &[u8], domain: &[u8], document: &[u8]) -> *mut sys::_str {
    let aggregate = callbacks(package).and_then(|event| event.agg_nbody);
    let Some(aggregate) = aggregate else { return ptr::null_mut() };
    let (mut user, mut domain) = (Lent::new(user), Lent::new(domain));
    let mut document = Lent::new(document);
    let mut array = [&raw mut document.text];
    // SAFETY: the strings and the array outlive the call; the result belongs
    // to whoever asked us.
    unsafe { aggregate(&raw mut user.text, &raw mut domain.text, array.as_mut_ptr(), 1, -1) }
}

/// Whether a package is for shared lines.
///
/// # Safety
/// `event` is NULL or points to a `pres_ev_t`.
pub unsafe fn is_shared_line(event: *const sys::pres_ev_t) -> bool {
    // SAFETY: a sibling passes NULL or a structure whose name is set; it stays
    // during the call.
    let Some(id) = (unsafe { package_of(event) }) else { return false };
    registered(|known| known.registry.get(id).is_some_and(|package| package.is_shared_line()))
}

fn filled(document: &[u8]) -> Option<Vec<u8>> {
    (!document.is_empty()).then(|| document.to_vec())
}

fn failed(callback: &str, event: &sys::pres_ev_t) -> Fault {
    // SAFETY: names of registered packages stay in shared memory.
    let name = unsafe { text::bytes(event.name) };
    log_error!("{callback} of event package {} failed", Printable(name));
    Fault::Package
}

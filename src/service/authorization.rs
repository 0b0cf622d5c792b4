//! Who may watch: the package's rules and the `watchers` table (B17).

use crate::error::{Fault, Rejection};
use crate::ports::{Assignment, Compare, Condition, Database, Extent, Host, Value, Wanted};
use crate::presence::event_package::EventPackage;
use crate::presence::explain::Decider;
use crate::presence::presentity::PresentityKey;
use crate::presence::subscription::{Authorization, Ending, Snapshot, Status, Text};
use crate::presence::uri;
use crate::service::durable::single;
use crate::service::paging::{self, page as page_of};
use crate::service::{Server, check_widths};
use crate::shm::Memory;
use crate::store::rows::presentity_uri;

/// Old rows looked at in one go.
const PORTION: usize = 500;

/// Rows of one watcher looked at for one in another spelling: one row has ours,
/// the others are those of namesakes at other hosts.
const NAMESAKES: usize = 256;

/// User and host of a watcher, as its subscription or its row spells them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) user: Vec<u8>,
    pub(super) host: Vec<u8>,
}

impl Name {
    /// The watcher of a subscription.
    pub(super) fn of(subscription: &Snapshot) -> Name {
        Name {
            user: subscription.text(Text::WatcherUser).to_vec(),
            host: subscription.text(Text::WatcherHost).to_vec(),
        }
    }

    /// What tells watchers apart, in whichever spelling.
    pub(super) fn identity<M: Memory>(&self, server: &Server<M>) -> Vec<u8> {
        uri::identity(&self.user, &self.host, server.store.policy.user_case)
    }

    /// As it is written (B19, B46).
    fn written(&self) -> Name {
        Name {
            user: uri::user::stored(&self.user).into_owned(),
            host: self.host.to_ascii_lowercase(),
        }
    }
}

/// What names a row of the table: its full unique key, as the row spells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) resource: Vec<u8>,
    pub(super) event: Vec<u8>,
    pub(super) name: Name,
}

impl Place {
    pub(super) fn conditions(&self) -> Vec<Condition> {
        let mut row = self.namesakes();
        row.push(("watcher_domain", Compare::Eq, Value::text(&self.name.host)));
        row
    }

    /// The rows that differ in their domain only.
    fn namesakes(&self) -> Vec<Condition> {
        vec![
            ("presentity_uri", Compare::Eq, Value::text(&self.resource)),
            ("watcher_username", Compare::Eq, Value::text(&self.name.user)),
            ("event", Compare::Eq, Value::text(&self.event)),
        ]
    }

    /// The columns that say what was decided; and how we spell the domains, if
    /// there is no other row of the watcher. See [`StoredDecision::by_hand`].
    pub(super) fn columns(&self, state: &Authorization, is_only: bool) -> Vec<Assignment> {
        let mut set = columns(state);
        let host = self.name.host.to_ascii_lowercase();
        if is_only && host != self.name.host {
            set.push(("watcher_domain", Value::Text(host)));
        }
        let (user, host) = uri::split(&self.resource);
        let resource = uri::presentity_uri(user, &host.to_ascii_lowercase());
        if is_only && resource != self.resource {
            set.push(("presentity_uri", Value::Text(resource)));
        }
        set
    }
}

/// What the table says about a watcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredDecision {
    /// Its state.
    pub(super) state: Authorization,
    /// Somebody has decided, not the rules: whoever approves a pending watcher
    /// sets its status, and the reason stays NULL.
    pub(super) by_hand: bool,
}

/// A row with its key.
#[derive(Debug)]
pub(super) struct WatchersRow {
    pub(super) place: Place,
    pub(super) state: Authorization,
    pub(super) inserted: i64,
}

/// The state that a new subscription gets.
pub fn authorize<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    package: &EventPackage,
    subscription: &Snapshot,
) -> Result<Authorization, Rejection> {
    if !package.requires_authorization || server.config.force_active {
        return Ok(Authorization::default());
    }
    let rules = host.rules(
        subscription.package,
        subscription.text(Text::PresentityUser),
        subscription.text(Text::PresentityHost),
    )?;
    let mut undecided = subscription.clone();
    undecided.status = Status::Pending;
    let verdict = host.authorize(subscription.package, &undecided, rules.as_deref())?;
    let table = table(server)?;
    let now = host.now();
    let Some(database) = server.database(host)? else {
        // Without the table nobody could ever approve a watcher by hand.
        let explicit = verdict.status != Status::Pending || rules.is_some();
        return Ok(if explicit { verdict } else { Authorization::default() });
    };
    let known = find(database, table, subscription, &package.name)?;
    match known {
        // Nobody is named, or somebody is to be asked: what was decided by
        // hand stays. Who was put off may ask again.
        Some((_, known, _)) if verdict.status == Status::Pending && !was_put_off(&known.state) => {
            Ok(known.state)
        }
        Some((_, known, _)) if known.state == verdict => Ok(verdict),
        Some((place, _, is_only)) => {
            let (row, set) = (place.conditions(), place.columns(&verdict, is_only));
            single(database, |database, _| database.update(table, &row, &set))?;
            Ok(verdict)
        }
        None => {
            let row = place(subscription, &package.name).conditions();
            let mut new: Vec<Assignment> =
                row.iter().map(|(column, _, value)| (*column, value.clone())).collect();
            new.extend(columns(&verdict));
            new.push(("inserted_time", Value::Int(now)));
            check_widths(&server.widths.watchers, &new)?;
            // Two first subscriptions of one watcher may race for the row. (To
            // delete it first would lock the gap it leaves, and deadlock.)
            let set = columns(&verdict);
            single(database, |database, _| {
                let Err(fault) = database.insert(table, &new) else { return Ok(()) };
                let mut there = false;
                database.query(table, &row, &["status"], None, &mut |_| there = true)?;
                if there { database.update(table, &row, &set) } else { Err(fault) }
            })?;
            Ok(verdict)
        }
    }
}

/// Who decides about a watcher, and what comes of it. Nothing is changed.
pub(super) fn decider<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    package: &EventPackage,
    mut subscription: Snapshot,
) -> Result<Decider, Fault> {
    if !package.requires_authorization {
        return Ok(Decider::Nobody);
    }
    if server.config.force_active {
        return Ok(Decider::ForceActive);
    }
    subscription.status = Status::Pending;
    let presentity =
        [Text::PresentityUser, Text::PresentityHost].map(|field| subscription.text(field));
    let Ok(rules) = host.rules(subscription.package, presentity[0], presentity[1]) else {
        return Ok(Decider::Rules(None));
    };
    let Ok(verdict) = host.authorize(subscription.package, &subscription, rules.as_deref()) else {
        return Ok(Decider::Rules(None));
    };
    if verdict.status != Status::Pending {
        return Ok(Decider::Rules(Some(verdict.status)));
    }
    let undecided = |status| match rules {
        Some(_) => Decider::Rules(Some(Status::Pending)),
        None => Decider::NoRules(status),
    };
    let table = table(server)?;
    let Some(database) = server.database(host)? else { return Ok(undecided(Status::Active)) };
    let known = find(database, table, &subscription, &package.name)?;
    Ok(match known {
        Some((_, row, _)) if row.by_hand || row.state.status != Status::Pending => {
            match was_put_off(&row.state) {
                true => undecided(Status::Pending),
                false => Decider::Row { status: row.state.status, by_hand: row.by_hand },
            }
        }
        _ => undecided(Status::Pending),
    })
}

/// The row of a watcher, in whichever spelling it is. Of several the one that
/// was decided by hand counts, then ours. The flag: there is only one. Where there
/// is a row in the request's own spelling of the users, as there mostly is, the
/// other ones (nine in all where both are numbers with a `+`) are not looked for:
/// we add none beside one in another spelling, and the stock module, which may
/// have, lets each count for itself.
fn find(
    database: &mut dyn Database,
    table: &str,
    subscription: &Snapshot,
    event: &[u8],
) -> Result<Option<(Place, StoredDecision, bool)>, Fault> {
    let ours = place(subscription, event);
    let mut found: Vec<(Place, StoredDecision)> = Vec::new();
    let user = subscription.text(Text::PresentityUser);
    let host = subscription.text(Text::PresentityHost).to_ascii_lowercase();
    let mut resources = uri::spellings(user, &host);
    // Rows of the stock module have the domain as it came.
    let came = subscription.text(Text::ToHost);
    if came != host && uri::eq_ignore_case(came, &host) {
        resources.extend(uri::spellings(user, came));
    }
    let wanted = ["watcher_domain", "status", "reason"];
    for resource in resources {
        for user in uri::user::spellings(&ours.name.user) {
            let name = Name { user, host: ours.name.host.clone() };
            let spelled = Place { resource: resource.clone(), event: event.to_vec(), name };
            let mut rows = 0;
            let page = Wanted { most: NAMESAKES, extent: Extent::Part, is_text: false };
            page_of(
                database,
                table,
                &spelled.namesakes(),
                &wanted,
                paging::Place { after: 0, page },
                &mut |_, columns| {
                    rows += 1;
                    found.extend(row_at(&spelled, columns));
                },
            )?;
            if rows >= NAMESAKES && found.is_empty() {
                database.query(table, &spelled.conditions(), &wanted, None, &mut |columns| {
                    found.extend(row_at(&spelled, columns));
                })?;
            }
            if !found.is_empty() && spelled.name.user == ours.name.user && resource == ours.resource
            {
                return Ok(best(found, &ours));
            }
        }
    }
    Ok(best(found, &ours))
}

/// The row that counts, and whether there is only one.
fn best(
    mut found: Vec<(Place, StoredDecision)>,
    ours: &Place,
) -> Option<(Place, StoredDecision, bool)> {
    let is_only = found.len() == 1;
    found.sort_by_key(|(place, row)| (row.by_hand, place == ours));
    found.pop().map(|(place, row)| (place, row, is_only))
}

/// A row, if it is that of a place but for the spelling of its domain.
fn row_at(place: &Place, columns: &[Value]) -> Option<(Place, StoredDecision)> {
    let [domain, status, reason] = columns else { return None };
    let host = domain.as_bytes().to_vec();
    uri::eq_ignore_case(&host, &place.name.host).then(|| {
        let name = Name { host, ..place.name.clone() };
        (Place { name, ..place.clone() }, read(status, reason))
    })
}

/// It was ended, but not turned away for good (RFC 3857 4.7.1).
fn was_put_off(known: &Authorization) -> bool {
    known.status == Status::Terminated && Ending::from_reason(&known.reason) != Ending::Rejected
}

/// The row of a watcher, as we write it.
fn place(subscription: &Snapshot, event: &[u8]) -> Place {
    Place {
        resource: presentity_uri(subscription),
        event: event.to_vec(),
        name: Name::of(subscription).written(),
    }
}

/// The columns that say what was decided; see [`StoredDecision::by_hand`].
fn columns(state: &Authorization) -> Vec<Assignment> {
    let reason = match (state.status, state.reason.as_slice()) {
        (Status::Pending, b"") => Value::Null,
        (_, reason) => Value::text(reason),
    };
    vec![("status", Value::Int(state.status as i64)), ("reason", reason)]
}

fn read(status: &Value, reason: &Value) -> StoredDecision {
    let state = Authorization {
        status: Status::from_number(status.as_int().unwrap_or(2)),
        reason: reason.as_bytes().to_vec(),
    };
    let by_hand = state.status != Status::Pending && *reason == Value::Null;
    StoredDecision { state, by_hand }
}

/// The name of the table.
pub(super) fn table<M: Memory>(server: &Server<M>) -> Result<&str, Fault> {
    std::str::from_utf8(&server.config.watchers_table).map_err(|_| Fault::Database)
}

/// All rows of a presentity, in whichever spelling.
pub(super) fn rows<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    event: &[u8],
) -> Result<Vec<(Place, StoredDecision)>, Fault> {
    let mut found = Vec::new();
    let table = table(server)?;
    let Some(database) = server.database(host)? else { return Ok(found) };
    for resource in uri::spellings(&key.user, &key.host) {
        let conditions = [
            ("presentity_uri", Compare::Eq, Value::text(&resource)),
            ("event", Compare::Eq, Value::text(event)),
        ];
        let wanted = ["watcher_username", "watcher_domain", "status", "reason"];
        database.query(table, &conditions, &wanted, None, &mut |columns| {
            if let [user, domain, status, reason] = columns {
                let name =
                    Name { user: user.as_bytes().to_vec(), host: domain.as_bytes().to_vec() };
                let place = Place { resource: resource.clone(), event: event.to_vec(), name };
                found.push((place, read(status, reason)));
            }
        })?;
    }
    Ok(found)
}

/// Rows inserted after `from` and before `before`, the oldest first, some.
pub(super) fn old_rows<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    from: i64,
    before: i64,
) -> Result<Vec<WatchersRow>, Fault> {
    let mut found = Vec::new();
    let table = table(server)?;
    let Some(database) = server.database(host)? else { return Ok(found) };
    let conditions = [
        ("inserted_time", Compare::Greater, Value::Int(from)),
        ("inserted_time", Compare::Less, Value::Int(before)),
    ];
    let wanted = [
        "presentity_uri",
        "event",
        "watcher_username",
        "watcher_domain",
        "status",
        "reason",
        "inserted_time",
    ];
    database.query(table, &conditions, &wanted, Some("inserted_time"), &mut |columns| {
        let [resource, event, user, domain, status, reason, inserted] = columns else { return };
        let inserted = inserted.as_int().unwrap_or_default();
        // Those of one second stay together: the next portion begins after it.
        let full = found.len() >= PORTION
            && found.last().is_some_and(|last: &WatchersRow| last.inserted != inserted);
        if !full {
            found.push(WatchersRow {
                place: Place {
                    resource: resource.as_bytes().to_vec(),
                    event: event.as_bytes().to_vec(),
                    name: Name { user: user.as_bytes().to_vec(), host: domain.as_bytes().to_vec() },
                },
                state: read(status, reason).state,
                inserted,
            });
        }
    })?;
    Ok(found)
}

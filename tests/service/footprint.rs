//! How much shared memory a record takes: texts as the benchmark's phones send
//! them (P11), each record on a presentity of its own, the pages' unused ends
//! included.

use crate::fakes::{MWI, Setup, World};
use presence::presence::entity_tag::EntityTag;
use presence::presence::event_package::PackageId;
use presence::presence::publication::{Facts, Step};
use presence::presence::subscription::{Snapshot, Text};
use presence::presence::text;
use presence::shm::PAGE_SIZE;
use presence::store::publications::{Begun, PublicationChange};

/// Records in the server; the second half is measured.
const COUNT: u32 = 20_000;
/// Those before, which have all tables made.
const BEFORE: u32 = 2_000;

fn world() -> World {
    World::new(Setup { shards: 64, ..Setup::default() })
}

fn pages(world: &World) -> usize {
    let usage = world.pool.usage();
    usage.pages * PAGE_SIZE + usage.large_bytes
}

/// Bytes for each of what `add` adds.
fn each(world: &World, add: impl Fn(&World, u32)) -> f64 {
    (0..BEFORE).for_each(|n| add(world, n));
    let before = pages(world);
    (100_000..100_000 + COUNT).for_each(|n| add(world, n));
    (pages(world) - before) as f64 / f64::from(COUNT)
}

fn subscribe(world: &World, n: u32) {
    let (user, watcher) = (format!("p{n}"), format!("w{n}"));
    let random = u128::from(n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
    let block = text::pack::<Text>(|field| {
        let text = match Text::ALL[field] {
            Text::CallId => format!("w{n}.1"),
            Text::FromTag => format!("f{n}"),
            Text::ToTag => format!("{random:032x}-{:04x}", n & 0xFFFF),
            Text::PresentityUser | Text::ToUser => user.clone(),
            Text::FromUser | Text::WatcherUser => watcher.clone(),
            Text::PresentityHost | Text::ToHost | Text::FromHost | Text::WatcherHost => {
                "bench.test".into()
            }
            Text::Contact => format!("sip:w{n}@127.0.0.1:40123"),
            Text::LocalContact => "sip:127.0.0.1:5060".into(),
            Text::Socket => "udp:127.0.0.1:5060".into(),
            Text::UserAgent => "bench".into(),
            Text::RecordRoute | Text::EventId | Text::Reason => String::new(),
        };
        Box::leak(text.into_boxed_str()).as_bytes()
    });
    let snapshot = Snapshot::new(MWI, block.unwrap());
    let store = &world.server.store;
    let key = store.key(user.as_bytes(), b"bench.test", MWI);
    let token = store.insert_subscription(&key, &snapshot, world.now()).unwrap().token().unwrap();
    store.release_subscription(token);
}

fn publish(world: &World, n: u32, length: usize) {
    let random =
        u128::from(n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835).to_be_bytes();
    let tag = EntityTag::mint(random, 0);
    let ruid = format!("pres-{:032x}", u128::from_le_bytes(random));
    let body = vec![b'b'; length];
    let package = PackageId(MWI.0);
    let store = &world.server.store;
    let key = store.key(format!("p{n}").as_bytes(), b"bench.test", package);
    let change = PublicationChange {
        step: Step::Create,
        if_match: None,
        entity_tag: tag.as_bytes(),
        ruid: ruid.as_bytes(),
        sender: None,
        body: Some(&body),
        facts: Some(Facts::default()),
        dialog_id: b"",
        expires_at: Some(world.now() + 3600),
        now: world.now(),
        priority: 0,
        judged_by: None,
    };
    let package = world.server.registry.get(package).unwrap();
    let Ok(Begun::Pending(pending)) = store.begin_publication(&key, package, &change) else {
        panic!("refused");
    };
    store.commit_publication(pending, false, None, None);
}

#[test]
fn a_subscription_is_small() {
    let bytes = each(&world(), subscribe);
    // 16 of them count what each watcher has.
    assert!(bytes < 410.0, "{bytes}");
}

#[test]
fn a_publication_is_its_document_and_little_more() {
    let mut all = Vec::new();
    for length in [94, 459] {
        all.push(each(&world(), |world, n| publish(world, n, length)));
    }
    assert!(all[0] < 280.0 && all[1] < 659.0, "{all:?}");
}

//! The module's life: parameters, start, one visit per forked process, stop.
//!
//! Before the fork one process prepares all that is shared: mod_init what does
//! not depend on other modules, the visit with rank PROC_INIT (all modules are
//! initialised, nothing is forked yet) the rest: packages are complete then.

use std::ffi::CString;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use once_cell::sync::OnceCell;

use crate::config::{Config, ConfigError, ParameterValue, Parameters};
use crate::host::database::{Connection, Driver};
use crate::host::lock::KamLock;
use crate::host::log::{log_error, log_info, log_warn};
use crate::host::memory::ShmArena;
use crate::host::process::Wake;
use crate::host::state::{
    CONFIG, DRIVER, FIXED, Kamailio, KamailioServer, POOL, REPLICATOR, SERVER, WAKE, config,
    random, server,
};
use crate::host::worker::{self, Worker};
use crate::host::{
    dmq, fragments, log, memory, packages, process, replicator, reply, reply_event, rpc, script,
    sender, statistics, sys, timers, tm,
};
use crate::service::notifier;
use crate::service::subscriptions::keeping;
use crate::service::{
    Server, flagged_rows, notifier_slots, notify_reply, policy, publications, restore, write_back,
};
use crate::shm::{Heap, KeyedHash, OutOfMemory, PagePool, force_unlock, place, place_slice};
use crate::store::counters::{Counters, Line, lines};
use crate::store::cseq_floors::{self, CseqFloors};
use crate::store::insight::{Entry, Insight, LATEST};
use crate::store::replication::{Bounds, Replication};
use crate::store::retransmissions::{Retransmissions, Set};
use crate::store::tally::{ROW_COUNTS, RowCount, TIMES, Tables, Tally};
use crate::store::waits::{WAITS, Wait};
use crate::store::widths::TableWidths;
use crate::store::writers::Writers;
use crate::store::{
    Shared,
    shard::{SHARDS_PER_HEAP, Shard},
};

/// Chunks kept for good, so that the first records need no new one (512 KiB).
const RESERVED_CHUNKS: usize = 1;
/// Sets of answers kept for retransmissions (about 0.5 kB each).
const ANSWER_SETS: usize = 2048;
/// Schema versions, as in Kamailio's table `version`.
const PRESENTITY_VERSION: u32 = 5;
const WATCHERS_VERSION: u32 = 3;
const ACTIVE_WATCHERS_VERSION: u32 = 12;

static PARAMETERS: Mutex<Option<Parameters>> = Mutex::new(None);
static SHARED: OnceCell<Mutex<Option<Shared<Kamailio>>>> = OnceCell::new();
static SHARDS: OnceCell<&[lock_api::Mutex<KamLock, Shard<Kamailio>>]> = OnceCell::new();

/// Takes one parameter of the configuration file.
pub fn set_parameter(name: &str, value: ParameterValue) -> Result<(), String> {
    let mut parameters = PARAMETERS.lock().map_err(|_| "parameters are in use")?;
    let parameters = parameters.get_or_insert_default();
    parameters.set(name, value).map_err(|error| error.to_string())?;
    // Here as well as in mod_init, so that `kamailio -c`, which initialises
    // nothing, finds values that would be refused.
    match parameters.validate() {
        Err(error @ ConfigError::Range { .. }) => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// The script may call our functions unless we are only a library.
pub fn script_usable() -> Result<(), String> {
    match config() {
        Some(config) if config.library_mode() => Err(
            "presence functions cannot be called from the script: db_url is not set, so the module \
             is only a library for others; set db_url, or publ_cache=2 for a server without database"
                .into(),
        ),
        _ => Ok(()),
    }
}

/// Prepares what does not depend on other modules' registrations.
pub fn mod_init() -> Result<(), String> {
    let parameters =
        PARAMETERS.lock().map_err(|_| "parameters are in use")?.take().unwrap_or_default();
    let (config, warnings) = parameters.validate().map_err(|error| error.to_string())?;
    for warning in warnings {
        log_warn!("{warning}");
    }
    let facility = config.local_log_facility.as_ref().map_or("", |facility| facility.name);
    log::set_local(config.local_log_level, facility.as_bytes());
    // SAFETY: asks the allocator for a number.
    let free = unsafe { sys::kshim_shm_available() };
    let limits = config.limits.in_memory(usize::try_from(free).unwrap_or(usize::MAX));
    let config = Config { limits, ..config };
    let config = CONFIG.try_insert(config).map_err(|_| "the module is initialised twice")?;
    rpc::register()?;
    if config.library_mode() {
        log_info!("no db_url: the module is a library for other modules");
        // Those read SUBSCRIBE requests with our help, and need a To tag.
        if let Err(reason) = reply::bind() {
            log_warn!("{reason}");
        }
        return Ok(());
    }
    statistics::register()?;
    reply::bind()?;
    tm::bind(tm::Hooks {
        completed: on_notify_completed,
        keeps_subscriptions: reply_event::keeps_subscriptions,
    })?;
    reply_event::find();
    DRIVER.set(open_database(config)?).map_err(|_| "the database is bound twice")?;
    let own = config.dmq.enabled.then(|| dmq::bind(&config.dmq.peer_id)).transpose()?;
    let shared = shared_memory(config, own.as_deref())
        .map_err(|_| "out of shared memory at start: raise Kamailio's -m option")?;
    SHARED.set(Mutex::new(Some(shared))).map_err(|_| "initialised twice")?;
    let wake = Wake::new().map_err(|error| format!("cannot make an eventfd: {error}"))?;
    WAKE.set(wake).map_err(|_| "initialised twice")?;
    let mut processes = u32::from(notifier::SENDERS) + notifier_slots::processes(config);
    if own.is_some() {
        let wake = Wake::new().map_err(|error| format!("cannot make an eventfd: {error}"))?;
        REPLICATOR.set(wake).map_err(|_| "initialised twice")?;
        processes += 1;
    }
    if !process::reserve(processes) {
        return Err("Kamailio has no room for the sender and notifier processes".into());
    }
    timers::register(config)
}

/// Binds the driver and checks the tables; `None` when nothing is stored.
fn open_database(config: &Config) -> Result<Option<Driver>, String> {
    let Some(url) = config.db_url.as_deref().filter(|_| config.needs_database()) else {
        return Ok(None);
    };
    let driver = Driver::bind(url, i64::from(config.fetch_rows))?;
    let subscriptions = keeping(config);
    if driver.is_cluster() && subscriptions.is_shared() {
        return Err(
            "subs_db_mode 3 needs transactions, which db_cluster has not: use another mode, or a \
             db_url that names the database itself"
                .into(),
        );
    }
    if policy::rows_judge(config) && !driver.counts_rows() {
        return Err(format!(
            "the database module {} cannot tell how many rows a change meets, which subs_db_mode 3 \
             and publ_cache 0 need",
            log::Printable(driver.name())
        ));
    }
    let mut connection =
        driver.open(true).map_err(|_| "the database cannot be opened: check db_url")?;
    let mut check =
        |table: &[u8], version| connection.check_table(&String::from_utf8_lossy(table), version);
    check(&config.presentity_table, PRESENTITY_VERSION)?;
    check(&config.watchers_table, WATCHERS_VERSION)?;
    if subscriptions.has_rows {
        check(&config.active_watchers_table, ACTIVE_WATCHERS_VERSION)?;
    }
    if driver.open(true).is_ok_and(|mut other| connection.shares_sessions(&mut other)) {
        driver.sessions_are_shared();
    }
    drop(connection);
    Ok(Some(driver))
}

/// Everything that lies in shared memory from the start.
///
/// `own` is our address as other servers know it, where there are others.
fn shared_memory(config: &Config, own: Option<&[u8]>) -> Result<Shared<Kamailio>, OutOfMemory> {
    let arena = ShmArena;
    let shards = config.lock_shards as usize;
    let pool = place(arena, PagePool::<Kamailio>::new(arena, RESERVED_CHUNKS)?)?;
    let _ = POOL.set(pool);
    let hash = place(arena, KeyedHash::new(random()))?;
    let heaps = place_slice(arena, shards.div_ceil(SHARDS_PER_HEAP), |_| Ok(Heap::new(pool)))?;
    let index_heap = place(arena, Heap::new(pool))?;
    let now = worker::now();
    let policy = policy::shard(config);
    // Tables for limits that are off stay empty.
    let limits = &config.limits;
    let counts = limits.of_watcher > 0 && policy.knows_watchers;
    let watchers = place_slice(arena, if counts { shards } else { 0 }, |_| {
        Ok(lock_api::Mutex::new(crate::shm::HashIndex::new(index_heap)))
    })?;
    let has_gaps = limits.refresh_gap > 0 || limits.publish_gap > 0;
    let times = place_slice(arena, if has_gaps { TIMES } else { 0 }, |_| Ok(AtomicU64::new(0)))?;
    let rows = if policy::rows_judge(config) { ROW_COUNTS } else { 0 };
    let rows = place_slice(arena, rows, |_| Ok(RowCount::default()))?;
    let tables = Tables { watchers, times, rows };
    let tally: &'static Tally<Kamailio> = place(arena, Tally::new(tables, hash))?;
    let records = place_slice(arena, shards, |number| {
        let heap = heaps.get(number / SHARDS_PER_HEAP).ok_or(OutOfMemory)?;
        Ok(lock_api::Mutex::new(Shard::new(heap, (*hash, tally), now, policy)?))
    })?;
    let _ = SHARDS.set(records);
    let dialogs = place_slice(arena, shards, |_| {
        Ok(lock_api::Mutex::new(crate::shm::HashIndex::new(index_heap)))
    })?;
    let sets = place_slice(arena, ANSWER_SETS, |_| Ok(lock_api::Mutex::new(Set::EMPTY)))?;
    let retransmissions = place(arena, Retransmissions::new(sets, hash))?;
    let wake = place(arena, std::sync::atomic::AtomicBool::new(false))?;
    let writers = place(arena, Writers::default())?;
    let latest = if keeping(config).has_records { 0 } else { LATEST };
    let latest = place_slice(arena, latest, |_| Ok(Entry::default()))?;
    let insight = place(arena, Insight::new(hash, latest))?;
    let floors = cseq_floors(arena, !policy.knows_watchers)?;
    let replication = own.map(|own| {
        let bounds = Bounds::of(free_memory());
        let heap = place(arena, Heap::new(pool))?;
        Replication::new(arena, heap, hash, (random(), own), bounds)
    });
    let replication = replication.transpose()?;
    let waits = place_slice(arena, WAITS, |_| Ok(Wait::default()))?;
    Ok(Shared {
        shards: records,
        dialogs,
        hash,
        retransmissions,
        tally,
        wake,
        writers,
        floors,
        insight,
        replication,
        waits,
    })
}

/// Bytes of shared memory that nobody uses.
fn free_memory() -> usize {
    // SAFETY: asks the allocator for a number.
    usize::try_from(unsafe { sys::kshim_shm_available() }).unwrap_or(0)
}

/// The CSeqs that no row goes back behind, where rows have them.
fn cseq_floors(arena: ShmArena, are_kept: bool) -> Result<&'static CseqFloors, OutOfMemory> {
    let places = if are_kept { cseq_floors::places(free_memory()) } else { 0 };
    let places = place_slice(arena, places, |_| Ok(AtomicU64::new(0)))?;
    place(arena, CseqFloors::new(places))
}

/// What has happened is counted by each process for itself; how many there are is
/// known before the fork.
fn counters(packages: usize) -> Result<Counters, OutOfMemory> {
    // SAFETY: the table of processes exists when modules are visited with PROC_INIT.
    let processes = usize::try_from(unsafe { sys::get_max_procs() }).unwrap_or(1);
    let lines = place_slice(ShmArena, lines(processes, packages), |_| Ok(Line::default()))?;
    Ok(Counters::new(lines, packages))
}

/// A process begins. `rank` is its kind, or a worker's number.
pub fn child_init(rank: i32) -> Result<(), String> {
    let Some(config) = config().filter(|config| !config.library_mode()) else { return Ok(()) };
    if let Some(server) = server() {
        // SAFETY: the core sets it once, before modules are visited.
        let process = usize::try_from(unsafe { sys::process_no }).unwrap_or(0);
        server.store.counters().enter(process);
    }
    match rank {
        sys::PROC_INIT => {
            begin(config)?;
            if config.heap_fragments {
                fragments::scatter_shared();
            }
            Ok(())
        }
        // Neither serves anything; the main process connects when it stops.
        sys::PROC_TCP_MAIN | sys::PROC_POSTCHILDINIT => Ok(()),
        rank if rank == sys::PROC_MAIN as i32 => {
            for _ in 0..notifier::SENDERS {
                sender::start()
                    .map_err(|error| format!("the sender process cannot be started: {error}"))?;
            }
            if config.dmq.enabled {
                replicator::start()
                    .map_err(|error| format!("the replicator cannot be started: {error}"))?;
            }
            (0..notifier_slots::processes(config)).try_for_each(start_notifier)
        }
        _ => {
            if config.heap_fragments {
                fragments::scatter_private();
            }
            // The database was there when the server started. A process that
            // finds it away connects when it needs it.
            match connect() {
                Ok(connection) => worker::set_connection(connection),
                Err(reason) => log_warn!("{reason}: it is tried again"),
            }
            Ok(())
        }
    }
}

/// All modules are initialised, nothing is forked: the registry is complete
/// and stored state is taken over.
fn begin(config: &'static Config) -> Result<(), String> {
    let shared = SHARED
        .get()
        .and_then(|shared| shared.lock().ok()?.take())
        .ok_or("presence was not initialised")?;
    let registry = packages::registry();
    let widths = connect()?.map(|mut connection| {
        let widths = table_widths(config, &mut connection);
        worker::set_connection(Some(connection));
        widths
    });
    let counters = counters(registry.count())
        .map_err(|_| "out of shared memory at start: raise Kamailio's -m option")?;
    let widths = widths.unwrap_or_default();
    let mut server = Server::new(config.clone(), registry, shared, counters, widths);
    let mut host = Worker::default();
    let failed = |what: &str| format!("{what} of the database could not be loaded");
    if publications::are_indexed(&server.config) {
        restore::publications(&mut server, &mut host).map_err(|_| failed("publications"))?;
    }
    if keeping(config).rows_follow() {
        restore::subscriptions(&mut server, &mut host).map_err(|_| failed("subscriptions"))?;
    }
    drop(host);
    // A connection must not be shared with the processes to be forked.
    worker::set_connection(None);
    let held = POOL.get().map_or(0, |pool| pool.usage().held());
    let _ = FIXED.set(memory::allocated().saturating_sub(held));
    SERVER.set(server).map_err(|_| "the server was started twice".into())
}

/// Starts one of the notifier processes. It serves its slots one after the
/// other, `notifier_poll_rate` of them in a second.
fn start_notifier(number: u32) -> Result<(), String> {
    let name = CString::new(format!("PRESENCE NOTIFIER {number}")).map_err(|e| e.to_string())?;
    let (mut slot, mut next) = (0, Instant::now());
    let step = move || {
        let Some(server) = server() else { return };
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        let pause = Duration::from_secs(1) / server.config.notifier_poll_rate.max(1);
        // What was missed while the database was slow is not made up for.
        next = (next + pause).max(Instant::now());
        let each = notifier_slots::slots_each(server);
        flagged_rows::serve(server, &mut Worker::default(), i64::from(number * each + slot));
        slot = (slot + 1) % each;
    };
    process::spawn(&name, step)
        .map_err(|error| format!("a notifier process cannot be started: {error}"))
}

/// tm has the final answer to a NOTIFY. The script comes first: it may want
/// the subscription to end, and sees it as long as it is there.
fn on_notify_completed(completion: &tm::Completion<'_>) {
    let Some(server) = server() else { return };
    let code = u16::try_from(completion.code).unwrap_or(408);
    let answer = (code, completion.is_received());
    notify_reply::count(server, completion.package, completion.shown, answer);
    reply_event::run(completion);
    let Some(token) = crate::store::Token::from_number(completion.token) else { return };
    let ended_by_script = server.config.xavp_cfg.as_deref().is_some_and(|root| {
        script::xavp_number(root, b"delete_subscription").is_some_and(|number| number != 0)
    });
    let mut host = Worker::default();
    let subscription = completion.subscription.as_ref();
    notify_reply::remember(server, &host, (token, subscription), (completion.cseq(), code));
    if ended_by_script {
        notify_reply::end(server, &mut host, token, subscription);
    } else {
        let retry_after = completion.retry_after;
        notify_reply::handle(server, &mut host, token, subscription, code, retry_after);
    }
}

/// The server stops: what is only in memory is written, if it is kept at all.
pub fn destroy() {
    if let Some(server) = server().filter(|server| keeping(&server.config).rows_follow()) {
        write_the_last(server);
    }
    if server().is_some_and(|server| server.config.heap_fragments) {
        fragments::join_no_more();
    }
    // What a start that failed, or a server of one process, has left open.
    worker::set_connection(None);
    // Kamailio's own clean-up, which comes after this, waits for ever if a
    // child was killed with one of its locks in hand: the log then tells that
    // it was not us.
    log_info!("presence has stopped");
}

fn write_the_last(server: &KamailioServer) {
    for shard in SHARDS.get().copied().unwrap_or_default() {
        // SAFETY: Kamailio calls destroy in its main process after all others
        // have ended; one may have been killed with the lock in hand.
        unsafe { force_unlock(shard) };
    }
    match connect() {
        Ok(connection) => worker::set_connection(connection),
        Err(reason) => {
            log_error!("subscriptions could not be written at the end: {reason}");
            return;
        }
    }
    let mut host = Worker::default();
    write_back::flush(server, &mut host, true);
    drop(host);
    worker::set_connection(None);
}

/// A connection of this process; `None` when nothing is stored.
fn connect() -> Result<Option<Connection>, String> {
    let Some(Some(driver)) = DRIVER.get() else { return Ok(None) };
    let mut connection =
        driver.open(false).map_err(|_| "the database cannot be opened".to_owned())?;
    if config().is_some_and(|config| keeping(config).is_shared()) {
        connection.check_reads();
    }
    Ok(Some(connection))
}

fn table_widths(config: &Config, connection: &mut Connection) -> TableWidths {
    let mut of = |table: &[u8]| connection.widths(&String::from_utf8_lossy(table));
    TableWidths {
        publications: of(&config.presentity_table),
        subscriptions: of(&config.active_watchers_table),
        watchers: of(&config.watchers_table),
    }
}

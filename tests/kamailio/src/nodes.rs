//! Databases on more than one machine, on loopback: nodes of a Galera cluster, and a
//! pooler in front of PostgreSQL. They take their time, so the tests of them are run
//! with `scripts/behaviour ours --clusters` only, and where the programs are there.

use crate::kamailio::{Port, eventually};
use crate::server::{Kind, Server, lower, own, spawn_for_good};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Where Debian's galera-4 keeps the provider.
const GALERA: &str = "/usr/lib/galera/libgalera_smm.so";

/// The tests of clusters are wanted, and these programs are there. If they are wanted
/// and one is not, a line says what to install.
pub fn wanted(programs: &[(&str, &str)]) -> bool {
    if std::env::var_os("PRESENCE_CLUSTERS").is_none() {
        return false;
    }
    let missing = programs.iter().find(|(program, _)| !Path::new(program).exists());
    if let Some((program, package)) = missing {
        eprintln!("skipped: there is no {program}; install {package}");
    }
    missing.is_none()
}

/// What a Galera cluster needs.
pub const GALERA_NEEDS: &[(&str, &str)] = &[(GALERA, "galera-4"), ("/usr/bin/rsync", "rsync")];

/// What a pooler needs.
pub const POOLER_NEEDS: &[(&str, &str)] = &[("/usr/sbin/pgbouncer", "pgbouncer")];

/// A MariaDB server for each node.
pub fn galera(count: usize) -> Vec<(Arc<Server>, [Port; 2])> {
    let ports: Vec<[Port; 2]> = (0..count).map(|_| [Port::reserve(), Port::reserve()]).collect();
    let group: Vec<_> = ports.iter().map(|[group, _]| group.number).collect();
    let node = |(n, [own, transfer]): (usize, [Port; 2])| {
        let address = format!("127.0.0.1:{}", own.number);
        let others = group.iter().take(n).map(|port| format!("127.0.0.1:{port}"));
        let mut options = vec![
            "--wsrep-on=ON".to_owned(),
            format!("--wsrep-provider={GALERA}"),
            "--wsrep-sst-method=rsync".to_owned(),
            "--binlog-format=ROW".to_owned(),
            "--innodb-autoinc-lock-mode=2".to_owned(),
            format!("--wsrep-node-address={address}"),
            format!("--wsrep-cluster-address=gcomm://{}", others.collect::<Vec<_>>().join(",")),
            format!(
                "--wsrep-provider-options=gcache.size=16M;base_host=127.0.0.1;base_port={port};\
                 gmcast.listen_addr=tcp://{address};ist.recv_addr=127.0.0.1:{ist}",
                port = own.number,
                ist = transfer.number,
            ),
        ];
        if n == 0 {
            options.push("--wsrep-new-cluster".to_owned());
        }
        (Server::with(Kind::MariaDb, options), [own, transfer])
    };
    ports.into_iter().enumerate().map(node).collect()
}

/// PgBouncer in transaction mode in front of a server.
pub struct Pooler {
    port: Port,
    process: Child,
    _folder: tempfile::TempDir,
}

impl Pooler {
    /// Starts one.
    pub fn start(server: &Server) -> Pooler {
        let port = Port::reserve();
        let folder = tempfile::Builder::new().prefix("presence-test-pooler-").tempdir();
        let folder = folder.unwrap_or_else(|error| panic!("temporary folder: {error}"));
        let file = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={} user=presence\n[pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {}\nunix_socket_dir =\nauth_type = any\n\
             pool_mode = transaction\ndefault_pool_size = 4\n",
            server.port(),
            port.number
        );
        std::fs::write(&file, text).unwrap_or_else(|error| panic!("pgbouncer.ini: {error}"));
        own(folder.path(), Kind::Postgres);
        own(&file, Kind::Postgres);
        let mut command = Command::new("/usr/sbin/pgbouncer");
        command.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        lower(&mut command, Kind::Postgres);
        let process = spawn_for_good(command).unwrap_or_else(|error| panic!("pgbouncer: {error}"));
        let answers = || TcpStream::connect(("127.0.0.1", port.number)).ok();
        assert!(
            eventually(Duration::from_secs(10), answers).is_some(),
            "pgbouncer does not answer"
        );
        Pooler { port, process, _folder: folder }
    }

    /// The port that it listens at.
    pub fn port(&self) -> u16 {
        self.port.number
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

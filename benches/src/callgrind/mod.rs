//! Instructions of a Kamailio that runs under valgrind's callgrind. Counting is
//! switched on and off in the running processes, so that fills cost less time.

mod profile;

pub use profile::Profile;

use crate::Fallible;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The counters of all processes of one Kamailio.
pub struct Callgrind {
    folder: PathBuf,
    processes: Vec<(i32, String)>,
}

/// Instructions of one phase.
#[derive(Clone, Debug, Default)]
pub struct Instructions {
    /// Of those that work on requests: workers and presence's own process.
    pub workers: Profile,
    /// Of the timers and all others: what they do grows with time as well.
    pub others: Profile,
}

impl Callgrind {
    /// The start of a command line that counts in what follows.
    pub fn command(folder: &Path) -> Command {
        let mut command = Command::new("valgrind");
        command
            .args(["--tool=callgrind", "--trace-children=yes", "--instr-atstart=no", "-q"])
            .arg(format!("--callgrind-out-file={}", folder.join("callgrind.%p").display()))
            .arg("kamailio");
        command
    }

    pub(crate) fn new(folder: &Path, processes: &[(i32, String)]) -> Self {
        Self { folder: folder.to_owned(), processes: processes.to_vec() }
    }

    fn tell(&self, what: &[&str]) -> Fallible<()> {
        let mut running = Vec::new();
        for (process, _) in &self.processes {
            let child = Command::new("vgdb")
                .arg(format!("--pid={process}"))
                .args(["--wait=10", "--max-invoke-ms=500"])
                .args(what)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .map_err(|error| format!("cannot run vgdb (package valgrind): {error}"))?;
            running.push((*process, child));
        }
        for (process, mut child) in running {
            let status = child.wait().map_err(|error| format!("vgdb: {error}"))?;
            if !status.success() {
                return Err(format!("vgdb {what:?} failed for process {process}"));
            }
        }
        Ok(())
    }

    /// Begins to count, from zero.
    pub fn begin(&self) -> Fallible<()> {
        self.tell(&["instrumentation", "on"])
    }

    /// Ends counting; what was counted.
    pub fn end(&self) -> Fallible<Instructions> {
        self.tell(&["dump"])?;
        self.tell(&["instrumentation", "off"])?;
        let mut counted = Instructions::default();
        for (process, name) in &self.processes {
            let Some(file) = self.newest(*process) else { continue };
            if name.contains("receiver") || name.contains("PRESENCE") {
                counted.workers.add(&file);
            } else {
                counted.others.add(&file);
            }
        }
        Ok(counted)
    }

    /// The file of the last dump of a process.
    fn newest(&self, process: i32) -> Option<PathBuf> {
        (1..)
            .map(|number| self.folder.join(format!("callgrind.{process}.{number}")))
            .take_while(|file| file.exists())
            .last()
    }
}

impl Instructions {
    /// Writes per operation into `file`: the functions that cost most, and
    /// those that ask for memory most often. The first functions as text.
    pub fn write(&self, operations: f64, file: &Path) -> Fallible<Vec<String>> {
        let functions = self.workers.functions(operations);
        let text = format!(
            "Instructions per operation, by function ({operations} operations)\n\n{}\n\n\
             Calls of the allocator per operation, their instructions, by caller\n\n{}\n",
            functions.join("\n"),
            self.workers.callers(operations).join("\n")
        );
        std::fs::write(file, text)
            .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
        Ok(functions.into_iter().take(10).collect())
    }
}

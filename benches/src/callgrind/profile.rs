//! Reads callgrind's files: what each function cost by itself, and who asked
//! the allocator how often.

use std::collections::HashMap;
use std::path::Path;

/// Functions of Kamailio's allocators (qm is the default, fm another).
const ALLOCATOR: [&str; 2] = ["qm_", "fm_"];
/// The function that each allocation of pkg or shm memory ends in.
const ALLOCATE: [&str; 2] = ["qm_malloc", "fm_malloc"];

/// The sum of several files.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// Instructions by function, those of callees not included.
    functions: HashMap<String, u64>,
    /// Calls of the allocator and what they cost, by caller.
    allocations: HashMap<String, (u64, u64)>,
}

/// Names that were given a number when they came first.
#[derive(Default)]
struct Names(HashMap<u32, String>);

impl Names {
    /// The name in `(number) name` or `(number)`.
    fn read(&mut self, text: &str) -> String {
        let Some((number, name)) = text.strip_prefix('(').and_then(|rest| rest.split_once(')'))
        else {
            return text.to_owned();
        };
        let number = number.parse().unwrap_or(0);
        let name = name.trim();
        if name.is_empty() {
            return self.0.get(&number).cloned().unwrap_or_default();
        }
        self.0.insert(number, name.to_owned());
        name.to_owned()
    }
}

impl Profile {
    /// Adds the content of a file.
    pub fn add(&mut self, file: &Path) {
        self.add_text(&String::from_utf8_lossy(&std::fs::read(file).unwrap_or_default()));
    }

    fn add_text(&mut self, text: &str) {
        let (mut objects, mut functions) = (Names::default(), Names::default());
        let (mut object, mut function, mut callee) = (String::new(), String::new(), String::new());
        let mut inclusive = false;
        for line in text.lines() {
            if let Some((key, value)) = line.split_once('=') {
                match key {
                    "ob" => object = objects.read(value),
                    "cob" => _ = objects.read(value),
                    "fn" => function = functions.read(value),
                    "cfn" => callee = functions.read(value),
                    "calls" => {
                        inclusive = true;
                        if ALLOCATE.contains(&callee.as_str()) {
                            let count = value.split(' ').next().and_then(|n| n.parse().ok());
                            self.allocations.entry(label(&function, &object)).or_default().0 +=
                                count.unwrap_or(0u64);
                        }
                    }
                    _ => {}
                }
            } else if line.starts_with(|byte: char| byte.is_ascii_digit() || "+-*".contains(byte)) {
                let cost = line.split(' ').nth(1).and_then(|cost| cost.parse().ok());
                let cost = cost.unwrap_or(0u64);
                // The line after `calls=` is what the callee cost.
                if !std::mem::take(&mut inclusive) {
                    *self.functions.entry(label(&function, &object)).or_default() += cost;
                } else if ALLOCATE.contains(&callee.as_str()) {
                    self.allocations.entry(label(&function, &object)).or_default().1 += cost;
                }
            }
        }
    }

    /// All instructions.
    pub fn total(&self) -> u64 {
        self.functions.values().sum()
    }

    /// Instructions inside the allocator.
    pub fn allocator(&self) -> u64 {
        let is_allocator = |name: &str| ALLOCATOR.iter().any(|prefix| name.starts_with(prefix));
        self.functions.iter().filter(|(name, _)| is_allocator(name)).map(|(_, cost)| cost).sum()
    }

    /// How often memory was asked for.
    pub fn allocations(&self) -> u64 {
        self.allocations.values().map(|(calls, _)| calls).sum()
    }

    /// The functions and what each costs per operation, the most first.
    pub fn functions(&self, operations: f64) -> Vec<String> {
        sorted(&self.functions, |cost| *cost)
            .map(|(name, cost)| format!("{:10.0}  {name}", *cost as f64 / operations))
            .collect()
    }

    /// Those who ask for memory, per operation: calls, instructions, who; the
    /// dearest first.
    pub fn callers(&self, operations: f64) -> Vec<String> {
        sorted(&self.allocations, |(_, cost)| *cost)
            .map(|(name, (calls, cost))| {
                let (calls, cost) = (*calls as f64 / operations, *cost as f64 / operations);
                format!("{calls:10.2} {cost:10.0}  {name}")
            })
            .collect()
    }
}

/// The entries with the largest values, at most 200.
fn sorted<T>(
    counts: &HashMap<String, T>,
    value: impl Fn(&T) -> u64,
) -> impl Iterator<Item = (&String, &T)> {
    let mut entries: Vec<(&String, &T)> = counts.iter().collect();
    entries.sort_by(|a, b| value(b.1).cmp(&value(a.1)).then(a.0.cmp(b.0)));
    entries.into_iter().take(200)
}

/// A function with the file it is in.
fn label(function: &str, object: &str) -> String {
    let object = object.rsplit('/').next().unwrap_or(object);
    // Recursion is counted apart, with a mark.
    let name = function.split('\'').next().unwrap_or(function);
    format!("{name} [{object}]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_cost_and_allocations_are_read() {
        let mut profile = Profile::default();
        profile.add_text(
            "events: Ir\nob=(1) /usr/sbin/kamailio\nfl=(1) ???\nfn=(1) parse_msg\n0 100\n+3 5\n\
             cob=(1)\ncfi=(1)\ncfn=(2) qm_malloc\ncalls=7 0\n* 900\n0 1\n\nfn=(2)\n0 900\n\n\
             ob=(2) /m/tm.so\nfn=(3) t_newtran'2\n0 4\ntotals: 1010\n",
        );
        assert_eq!((profile.total(), profile.allocator(), profile.allocations()), (1010, 900, 7));
        let functions = profile.functions(2.0);
        assert_eq!(functions[0].trim(), "450  qm_malloc [kamailio]");
        assert_eq!(functions[2].trim(), "2  t_newtran [tm.so]");
        assert_eq!(profile.callers(2.0)[0].trim(), "3.50        450  parse_msg [kamailio]");
    }
}

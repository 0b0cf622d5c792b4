//! The manual says of each parameter what the module's table says: each has one
//! section, with its default and, where that is a rule of the table, its range.

use presence::config::{PARAMETERS, Parameter, ParameterDefault, ParameterRange};

/// Name, default and range as the manual states them, and whether there is an example.
fn sections() -> Vec<(String, String, String, bool)> {
    let manual = crate::read("docs/manual.md");
    let (_, part) = manual.split_once("## Parameters\n").unwrap_or_default();
    let part = part.split("\n## ").next().unwrap_or_default();
    let mut all = Vec::new();
    for section in part.split("\n### `").skip(1) {
        let (name, rest) = section.split_once("`\n").unwrap_or_default();
        let facts = rest.lines().find(|line| line.starts_with("**Default:** ")).unwrap_or_default();
        let fact = |key: &str| {
            let found = facts.split(" · ").find_map(|fact| fact.strip_prefix(key));
            found.unwrap_or_default().trim().to_owned()
        };
        assert!(!fact("**since:**").is_empty(), "{name}: since when?");
        let default = fact("**Default:**").replace('`', "");
        let example = rest.contains(&format!("modparam(\"presence\", \"{name}\", "));
        all.push((name.to_owned(), default, fact("**range:**"), example));
    }
    assert!(!all.is_empty(), "docs/manual.md has no parameters");
    all
}

/// What the cell must begin with, one of these.
fn defaults(parameter: &Parameter) -> Vec<String> {
    match parameter.default {
        ParameterDefault::Int(number) => vec![number.to_string()],
        ParameterDefault::Text("") => vec!["none".to_owned(), "the core's".to_owned()],
        ParameterDefault::Text(text) => vec![text.to_owned()],
    }
}

fn range(parameter: &Parameter) -> String {
    match parameter.range {
        ParameterRange::Switch => "0, 1".to_owned(),
        ParameterRange::AtLeast(least) => {
            format!("{least} or more, replaced by {}", defaults(parameter)[0])
        }
        ParameterRange::Judged => String::new(),
    }
}

#[test]
fn the_manual_has_every_parameter_as_it_is() {
    let sections = sections();
    let mut wrong = Vec::new();
    for parameter in PARAMETERS {
        let name = parameter.name;
        let found: Vec<_> = sections.iter().filter(|section| section.0 == name).collect();
        let [(_, default, allowed, example)] = found.as_slice() else {
            wrong.push(format!("{name}: {} sections", found.len()));
            continue;
        };
        let stated = default.split(':').next().unwrap_or_default();
        if !defaults(parameter).iter().any(|default| default == stated) {
            wrong.push(format!("{name}: default {default}, but it is {:?}", defaults(parameter)));
        }
        let begins = allowed.split([';', '(']).next().unwrap_or_default().trim();
        let range = range(parameter);
        if !range.is_empty() && begins != range {
            wrong.push(format!("{name}: range {allowed}, but it is {range}"));
        }
        // A socket has to be one of the server's own.
        if !example && name != "default_socket" {
            wrong.push(format!("{name}: no example"));
        }
    }
    for (name, ..) in &sections {
        if !PARAMETERS.iter().any(|parameter| parameter.name == name) {
            wrong.push(format!("{name}: there is no such parameter"));
        }
    }
    assert!(wrong.is_empty(), "docs/manual.md, Parameters:\n{}", wrong.join("\n"));
}

/// The shim's list is made of the table, so that none can be forgotten there.
#[test]
fn the_shim_has_no_list_of_its_own() {
    let shim = crate::read("kamailio-shim/shim.c");
    assert!(shim.contains("#include \"parameters.h\"") && !shim.contains("#define PARAMETERS("));
    assert!(PARAMETERS.iter().all(|parameter| !shim.contains(&format!("({})", parameter.name))));
}

//! README's table of parameters says what the module's table says: each parameter
//! once, with its default and, where that is a rule of the table, its range.

use crate::markdown::{codes, table};
use presence::config::{PARAMETERS, Parameter, ParameterDefault, ParameterRange};

/// Name, default and range as the README states them.
fn rows() -> Vec<(String, String, String)> {
    let rows = table(&crate::read("README.md"), &["parameter", "default", "range", "meaning"]);
    let mut all = Vec::new();
    for row in rows {
        for name in codes(&row[0]) {
            all.push((name.text.to_owned(), row[1].replace('`', ""), row[2].clone()));
        }
    }
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
fn the_readme_has_every_parameter_as_it_is() {
    let rows = rows();
    let mut wrong = Vec::new();
    for parameter in PARAMETERS {
        let name = parameter.name;
        let found: Vec<_> = rows.iter().filter(|row| row.0 == name).collect();
        let [(_, default, allowed)] = found.as_slice() else {
            wrong.push(format!("{name}: {} rows", found.len()));
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
    }
    for (name, ..) in &rows {
        if !PARAMETERS.iter().any(|parameter| parameter.name == name) {
            wrong.push(format!("{name}: there is no such parameter"));
        }
    }
    assert!(wrong.is_empty(), "README.md, Parameters:\n{}", wrong.join("\n"));
}

/// The shim's list is made of the table, so that none can be forgotten there.
#[test]
fn the_shim_has_no_list_of_its_own() {
    let shim = crate::read("kamailio-shim/shim.c");
    assert!(shim.contains("#include \"parameters.h\"") && !shim.contains("#define PARAMETERS("));
    assert!(PARAMETERS.iter().all(|parameter| !shim.contains(&format!("({})", parameter.name))));
}

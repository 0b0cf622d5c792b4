//! Splitting a command line into words, as a shell would.

/// The words of a line: quotes are removed, backslashes quote one character
/// (outside single quotes). No expansions.
pub fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => {
                word.get_or_insert_default().extend(characters.next());
            }
            (c, Some(q)) if c == q => quote = None,
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The preprocessor definitions (`-D…`) among the words of a line.
pub fn definitions(line: &str) -> impl Iterator<Item = String> {
    split(line).into_iter().filter(|word| word.starts_with("-D") && word.len() > 2)
}

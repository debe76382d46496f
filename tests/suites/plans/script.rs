//! The text of a case: a title, then sections that begin with `-- name --`. A section that is missing,
//! misspelled or said twice is an error with its place.

/// One section.
pub struct Section {
    pub name: String,
    /// The line of the file on which its text begins.
    pub line: usize,
    pub text: String,
}

/// A case as it stands in its file.
pub struct Script {
    /// The file, as errors name it.
    pub file: String,
    /// What stands before the first section.
    title: String,
    pub sections: Vec<Section>,
}

/// A case that cannot be asked, with its place.
pub type Wrong = String;

pub fn wrong(file: &str, line: usize, why: impl std::fmt::Display) -> Wrong {
    format!("{file}:{line}: {why}")
}

fn heading(line: &str) -> Option<&str> {
    line.strip_prefix("-- ")?.strip_suffix(" --")
}

impl Script {
    pub fn read(file: &str, text: &str) -> Result<Self, Wrong> {
        if text.trim().is_empty() {
            return Err(wrong(file, 1, "the file is empty"));
        }
        let mut script = Self { file: file.into(), title: String::new(), sections: vec![] };
        for (at, line) in text.lines().enumerate() {
            if let Some(name) = heading(line) {
                script.sections.push(Section { name: name.trim().into(), line: at + 2, text: String::new() });
            } else if line.starts_with("--") {
                return Err(wrong(file, at + 1, format!("`{line}` is no `-- name --`")));
            } else if let Some(section) = script.sections.last_mut() {
                section.text += &format!("{line}\n");
            } else if line.starts_with("# ") || line.is_empty() {
                script.title += &format!("{line}\n");
            } else {
                return Err(wrong(
                    file,
                    at + 1,
                    "before the first section stands the title, `# what it shows`",
                ));
            }
        }
        if !script.title.starts_with("# ") {
            return Err(wrong(file, 1, "the first line is the title: `# what it shows`"));
        }
        for section in &mut script.sections {
            section.text = format!("{}\n", section.text.trim_end());
        }
        Ok(script)
    }

    /// Every section must be one of these; those that end with `+` may come again and again.
    pub fn only(&self, known: &[&str]) -> Result<(), Wrong> {
        for (at, section) in self.sections.iter().enumerate() {
            let name = section.name.as_str();
            let Some(found) = known.iter().find(|k| k.trim_end_matches('+') == name) else {
                let near = vsgpu_core::suggest::nearest(name, known.iter().map(|k| k.trim_end_matches('+')));
                let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                return Err(wrong(
                    &self.file,
                    section.line - 1,
                    format!("there is no section `{name}`{near}"),
                ));
            };
            if !found.ends_with('+') && self.sections[..at].iter().any(|s| s.name == name) {
                return Err(wrong(&self.file, section.line - 1, format!("a second section `{name}`")));
            }
        }
        Ok(())
    }

    pub fn find(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|s| s.name == name)
    }

    pub fn need(&self, name: &str) -> Result<&Section, Wrong> {
        let end = self.sections.last().map_or(1, |s| s.line + s.text.lines().count());
        self.find(name)
            .ok_or_else(|| wrong(&self.file, end, format!("the section `-- {name} --` is missing")))
    }

    /// The whole file again.
    pub fn written(&self) -> String {
        let section = |s: &Section| format!("-- {} --\n{}\n", s.name, s.text);
        let all = self.title.trim_end().to_string()
            + "\n\n"
            + &self.sections.iter().map(section).collect::<String>();
        format!("{}\n", all.trim_end())
    }
}

/// The lines of both texts, those that differ marked, with three lines around them.
pub fn diff(stored: &str, now: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (stored.lines().collect(), now.lines().collect());
    // Length of the longest common rest from each pair of lines.
    let mut common = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i][j] =
                if a[i] == b[j] { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, vec![]);
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            lines.push((' ', a[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == b.len() || i < a.len() && common[i + 1][j] >= common[i][j + 1] {
            lines.push(('-', a[i]));
            i += 1;
        } else {
            lines.push(('+', b[j]));
            j += 1;
        }
    }
    let near = |at: usize| {
        lines[at.saturating_sub(3)..(at + 4).min(lines.len())].iter().any(|(mark, _)| *mark != ' ')
    };
    let mut shown = String::new();
    for (at, (mark, line)) in lines.iter().enumerate() {
        if near(at) {
            shown += &format!("{mark}{line}\n");
        } else if at > 0 && near(at - 1) {
            shown += "@@\n";
        }
    }
    shown
}

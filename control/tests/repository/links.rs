//! Links between documents.

use std::path::Path;

use crate::files::{Text, root, texts};

#[test]
fn every_relative_link_leads_somewhere() {
    let mut broken = Vec::new();
    let mut followed = 0;
    for page in texts().iter().filter(|text| text.is("md")) {
        for (line, target) in links(page) {
            followed += 1;
            if let Err(why) = follow(page, &target) {
                broken.push(format!("{}:{line}: {target}: {why}", page.path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(followed > 0, "no links found at all");
}

/// The targets of a page's links that are no URLs, with their lines.
fn links(page: &Text) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (number, line) in page.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        // Inline code is not a link: every second part between backticks.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("``");
        let inline = prose.split("](").skip(1);
        let reference = prose
            .strip_prefix('[')
            .and_then(|rest| rest.split_once("]: "))
            .map(|(_, target)| target);
        for target in inline
            .filter_map(|rest| rest.split(')').next())
            .chain(reference)
        {
            let target = target.split_whitespace().next().unwrap_or_default();
            if !target.contains("://") && !target.starts_with("mailto:") {
                found.push((number, target.to_owned()));
            }
        }
    }
    found
}

/// Whether there is such a file and, if it is a page, such a heading.
fn follow(page: &Text, target: &str) -> Result<(), &'static str> {
    let (file, heading) = target.split_once('#').unwrap_or((target, ""));
    let here = root().join(&page.path);
    let path = if file.is_empty() {
        here
    } else {
        here.parent().expect("a directory").join(file)
    };
    if !path.exists() {
        return Err("no such file");
    }
    if heading.is_empty() || path.extension().is_none_or(|extension| extension != "md") {
        return Ok(());
    }
    if headings(&path).any(|anchor| anchor == heading) {
        Ok(())
    } else {
        Err("no such heading")
    }
}

/// A page's headings, as GitHub makes anchors of them.
fn headings(page: &Path) -> impl Iterator<Item = String> {
    let content = std::fs::read_to_string(page).expect("a page");
    let lines: Vec<String> = content.lines().map(str::to_owned).collect();
    lines
        .into_iter()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            title
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
}

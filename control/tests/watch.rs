//! The watch on the resources' directory, against what editors and Kubernetes do to files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use control::config::watch::{Changed, LONGEST, LOOK, QUIET, QUIET_IF_WHOLE, Watch};

/// A directory that goes with the test.
struct Temp(PathBuf);

impl Temp {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("caracal-watch-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("conf.d")).unwrap();
        Self(path)
    }

    fn dir(&self) -> PathBuf {
        self.0.join("conf.d")
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Whether `change` is reported: not at once, but after the quiet time, and only once.
fn reported(watch: &mut Watch, change: impl FnOnce()) -> bool {
    let now = Instant::now();
    change();
    assert_eq!(watch.drain(now), None, "reported before it was quiet");
    let reported = watch.drain(now + QUIET);
    assert_eq!(watch.drain(now + QUIET + LONGEST), None, "reported twice");
    reported.is_some()
}

/// Whether `change`, which nothing tells of, is reported: when the directory is looked at again, and only once.
fn found(watch: &mut Watch, change: impl FnOnce()) -> bool {
    // When it is looked at next.
    let now = Instant::now();
    let now = now + watch.timeout(now);
    assert_eq!(watch.drain(now), None, "something is pending");
    change();
    assert_eq!(
        watch.drain(now + LOOK),
        None,
        "reported before it was quiet"
    );
    let found = watch.drain(now + LOOK + QUIET);
    assert_eq!(watch.drain(now + 3 * LOOK), None, "reported twice");
    assert!(matches!(found, None | Some(Changed::Anything)));
    found.is_some()
}

fn write(path: &Path) {
    fs::write(path, "a: 1\n").unwrap();
}

#[test]
fn files_that_are_written_renamed_over_and_deleted_are_noticed() {
    let temp = Temp::new("files");
    let file = temp.dir().join("a.yaml");
    let mut watch = Watch::new(temp.dir()).unwrap();
    assert!(reported(&mut watch, || write(&file)));
    assert!(reported(&mut watch, || write(&file)));
    assert!(reported(&mut watch, || {
        let scratch = temp.dir().join(".a.yaml.swp");
        write(&scratch);
        fs::rename(scratch, &file).unwrap();
    }));
    assert!(reported(&mut watch, || fs::remove_file(&file).unwrap()));
}

#[test]
fn scratch_files_of_editors_are_not_noticed() {
    let temp = Temp::new("scratch");
    let mut watch = Watch::new(temp.dir()).unwrap();
    assert!(!reported(&mut watch, || {
        write(&temp.dir().join(".a.yaml.swp"));
        write(&temp.dir().join("a.yaml~"));
        write(&temp.dir().join("4913"));
    }));
}

#[test]
fn a_file_that_will_not_be_read_is_noticed_so_that_it_is_said() {
    let temp = Temp::new("skipped");
    let mut watch = Watch::new(temp.dir()).unwrap();
    for name in ["a.YAML", "a.yaml.bak"] {
        assert!(reported(&mut watch, || write(&temp.dir().join(name))));
    }
}

#[test]
fn a_config_map_that_is_swapped_is_noticed() {
    let temp = Temp::new("configmap");
    let dir = temp.dir();
    for version in ["..v1", "..v2"] {
        fs::create_dir(dir.join(version)).unwrap();
        write(&dir.join(version).join("a.yaml"));
    }
    symlink("..v1", dir.join("..data")).unwrap();
    symlink("..data/a.yaml", dir.join("a.yaml")).unwrap();
    let mut watch = Watch::new(&dir).unwrap();
    assert!(reported(&mut watch, || {
        symlink("..v2", dir.join("..data_tmp")).unwrap();
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    }));
}

#[test]
fn a_directory_that_appears_or_is_replaced_is_found_again() {
    let temp = Temp::new("directory");
    let dir = temp.dir();
    fs::remove_dir(&dir).unwrap();
    let mut watch = Watch::new(&dir).unwrap();
    assert!(reported(&mut watch, || fs::create_dir(&dir).unwrap()));
    assert!(reported(&mut watch, || write(&dir.join("a.yaml"))));
    assert!(reported(&mut watch, || fs::remove_dir_all(&dir).unwrap()));
    assert!(reported(&mut watch, || fs::create_dir(&dir).unwrap()));
    assert!(reported(&mut watch, || write(&dir.join("b.yaml"))));
    assert!(reported(&mut watch, || {
        fs::rename(&dir, temp.0.join("old")).unwrap();
        fs::create_dir(&dir).unwrap();
    }));
    assert!(reported(&mut watch, || write(&dir.join("c.yaml"))));
}

#[test]
fn changes_that_never_end_are_reported_all_the_same() {
    let temp = Temp::new("endless");
    let mut watch = Watch::new(temp.dir()).unwrap();
    let start = Instant::now();
    let mut now = start;
    let mut reports = 0;
    while now < start + LONGEST + QUIET {
        write(&temp.dir().join("a.yaml"));
        reports += u32::from(watch.drain(now).is_some());
        assert!(watch.timeout(now) <= LOOK);
        now += QUIET / 2;
    }
    assert_eq!(reports, 1);
}

#[test]
fn what_is_behind_a_symlink_is_noticed() {
    let temp = Temp::new("behind");
    let (dir, target) = (temp.dir(), temp.0.join("elsewhere.yaml"));
    write(&target);
    symlink(&target, dir.join("a.yaml")).unwrap();
    let mut watch = Watch::new(&dir).unwrap();
    assert!(!found(&mut watch, || {}));
    assert!(found(&mut watch, || fs::write(&target, "a: 10\n").unwrap()));
    let other = temp.0.join("other.yaml");
    assert!(found(&mut watch, || {
        fs::write(&other, "a: 20\n").unwrap();
        fs::rename(&other, &target).unwrap();
    }));
    // As long as before, and with the same time of writing.
    assert!(found(&mut watch, || {
        let time = fs::metadata(&target).unwrap().modified().unwrap();
        let len = fs::read(&target).unwrap().len();
        fs::write(&target, "#".repeat(len)).unwrap();
        let file = fs::File::options().write(true).open(&target).unwrap();
        file.set_modified(time).unwrap();
    }));
    assert!(found(&mut watch, || fs::remove_file(&target).unwrap()));
    // Nobody reads what is in there.
    let below = temp.0.join("below");
    fs::create_dir(&below).unwrap();
    assert!(found(&mut watch, || symlink(&below, &target).unwrap()));
    assert!(!found(&mut watch, || write(&below.join("a.yaml"))));
}

#[test]
fn a_directory_on_the_way_that_is_switched_is_noticed_and_the_new_one_watched() {
    let temp = Temp::new("switched");
    for release in ["r1", "r2"] {
        fs::create_dir_all(temp.0.join(release).join("conf.d")).unwrap();
    }
    let current = temp.0.join("current");
    symlink("r1", &current).unwrap();
    let mut watch = Watch::new(current.join("conf.d")).unwrap();
    assert!(found(&mut watch, || {
        let new = temp.0.join("new");
        symlink("r2", &new).unwrap();
        fs::rename(&new, &current).unwrap();
    }));
    let file = temp.0.join("r2/conf.d/a.yaml");
    let now = Instant::now();
    write(&file);
    assert_eq!(watch.drain(now), None);
    assert!(
        watch.drain(now + QUIET).is_some(),
        "the old directory is watched"
    );
}

/// The names that are reported of a change after a time, and not before.
fn reported_after(quiet: Duration, watch: &mut Watch, change: impl FnOnce()) -> Vec<String> {
    let now = Instant::now();
    change();
    assert_eq!(watch.drain(now), None);
    assert_eq!(watch.drain(now + quiet / 2), None);
    assert!(watch.timeout(now) <= quiet);
    match watch.drain(now + quiet) {
        Some(Changed::Names(names)) => names
            .into_iter()
            .map(|name| name.into_string().unwrap())
            .collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_whole_is_reported_soon_and_what_may_be_half_done_is_not() {
    let temp = Temp::new("whole");
    let (dir, old) = (temp.dir(), temp.dir().join("old.yaml"));
    write(&old);
    let mut watch = Watch::new(&dir).unwrap();
    let names = reported_after(QUIET_IF_WHOLE, &mut watch, || {
        write(&dir.join("b.yaml"));
        write(&dir.join("a.yaml"));
    });
    assert_eq!(names, ["a.yaml", "b.yaml"]);
    let names = reported_after(QUIET_IF_WHOLE, &mut watch, || {
        write(&dir.join(".tmp"));
        fs::rename(dir.join(".tmp"), &old).unwrap();
    });
    assert_eq!(names, ["old.yaml"]);
    // An editor that keeps the file from before under another name, and writes a new one.
    let names = reported_after(QUIET_IF_WHOLE, &mut watch, || {
        fs::rename(&old, dir.join("old.yaml~")).unwrap();
        write(&old);
    });
    assert_eq!(names, ["old.yaml"]);
    // The same, half done.
    let names = reported_after(QUIET, &mut watch, || {
        write(&dir.join("a.yaml"));
        fs::rename(&old, dir.join("old.yaml~")).unwrap();
    });
    assert_eq!(names, ["a.yaml", "old.yaml"]);
    let begun = fs::File::create(&old).unwrap();
    assert_eq!(reported_after(QUIET, &mut watch, || {}), ["old.yaml"]);
    drop(begun);
    assert_eq!(
        reported_after(QUIET_IF_WHOLE, &mut watch, || {}),
        ["old.yaml"]
    );
}

//! The guides do what they say. Their shell parts run as they stand, a page in a directory of its own:
//! `# exit N` at the end of a line is its code, lines of `# prints:` are all that a block prints, and
//! `…` stands for anything.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::cloud_server::{CloudServer, KEY};
use super::support::{Leftover, Running, SEMRUN, World, content, is_alive, pid_in, wait_until};

const HOUSE: &str = env!("CARGO_MANIFEST_DIR");

/// What stands for a reader's own programs. They do nothing, and say nothing.
const PROGRAMS: [&str; 9] = [
    "backup.sh",
    "build.sh",
    "deploy.sh",
    "encode.sh",
    "migrate.sh",
    "report.sh",
    "starts-daemons",
    "test.sh",
    "verify.sh",
];
const INSTALLED: [&str; 3] = ["ffmpeg", "make", "pg_dump"];

fn on_this_machine() -> World {
    World::on_this_machine()
}

fn in_redis() -> World {
    World::in_redis()
}

fn in_a_server() -> World {
    World::in_cloud(CloudServer::ours())
}

/// One test for each page, with the world that it is about.
macro_rules! pages {
    ($($test:ident: $page:literal, $world:ident;)*) => {
        const PAGES: &[&str] = &[$($page),*];
        $(#[test]
        fn $test() {
            Reader::new($world()).follows($page);
        })*
    };
}

pages! {
    the_readme: "README.md", on_this_machine;
    the_index: "docs/operations/README.md", on_this_machine;
    cron: "docs/operations/cron.md", in_redis;
    systemd: "docs/operations/systemd.md", in_a_server;
    github_actions: "docs/operations/github-actions.md", in_a_server;
    gitlab_ci: "docs/operations/gitlab-ci.md", in_a_server;
    fail2ban: "docs/operations/fail2ban.md", in_a_server;
    kubernetes: "docs/operations/kubernetes.md", in_a_server;
    steps: "docs/operations/steps.md", in_redis;
    secrets: "docs/operations/secrets.md", in_a_server;
    configuration: "docs/operations/configuration.md", on_this_machine;
    doctor: "docs/operations/doctor.md", in_a_server;
    revoking: "docs/operations/revoking.md", in_a_server;
    from_flock: "docs/operations/from-flock.md", on_this_machine;
    from_consul_lock: "docs/operations/from-consul-lock.md", in_redis;
    from_passbuddy: "docs/operations/from-passbuddy.md", in_redis;
    from_cloud_semaphore: "docs/operations/from-cloud-semaphore.md", in_a_server;
    from_other_tools: "docs/operations/from-other-tools.md", on_this_machine;
    static_build: "docs/operations/static-build.md", on_this_machine;
}

#[test]
fn every_guide_is_tested_and_in_the_index() {
    let index = fs::read_to_string(format!("{HOUSE}/docs/operations/README.md")).unwrap();
    for file in fs::read_dir(format!("{HOUSE}/docs/operations")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(
            PAGES.contains(&format!("docs/operations/{name}").as_str()),
            "{name} is not tested"
        );
        assert!(name == "README.md" || index.contains(&format!("]({name})")), "{name}");
    }
}

#[test]
fn what_is_not_run_says_why_and_all_else_has_a_kind_that_is_known() {
    let known = ["console", "cron", "ini", "sh", "text", "toml", "yaml", "json"];
    for page in PAGES {
        for block in blocks(page) {
            let place = block.place();
            assert!(known.contains(&block.kind.as_str()), "{place}: {}", block.kind);
            if block.kind == "console" {
                assert!(block.is_excused(), "{place}: no sentence 'Not run, because …' beside it");
            }
        }
    }
}

/// The links of the guides and of the README lead to files that there are.
#[test]
fn links_lead_somewhere() {
    for page in PAGES {
        let directory = Path::new(HOUSE).join(page).parent().unwrap().to_owned();
        let text = fs::read_to_string(format!("{HOUSE}/{page}")).unwrap();
        for link in text.split("](").skip(1) {
            let target = link.split(')').next().unwrap().split('#').next().unwrap();
            let elsewhere = target.is_empty() || target.contains("://");
            assert!(elsewhere || directory.join(target).exists(), "{page}: {target}");
        }
    }
}

/// A fenced block of a page.
struct Block {
    page: String,
    line: usize,
    kind: String,
    text: String,
    /// The paragraphs before and after it.
    beside: [String; 2],
}

impl Block {
    fn place(&self) -> String {
        format!("{}:{}", self.page, self.line)
    }

    fn is_excused(&self) -> bool {
        self.beside.iter().any(|paragraph| paragraph.contains("Not run, because"))
    }

    /// What is run of it: the lines, each with its exit code checked.
    fn script(&self) -> String {
        let checked = |line: &str| match line.rsplit_once("# exit ") {
            // 99 for one that succeeds.
            Some((command, code)) if code.parse::<u8>().is_ok() => {
                format!("{command} && (exit 99) || test $? = {code}\n")
            }
            _ => format!("{line}\n"),
        };
        self.text.lines().map(checked).collect::<Vec<_>>().concat()
    }

    /// The lines that it is to print, with `…` for anything.
    fn prints(&self) -> Vec<&str> {
        let lines = self.text.lines().map(str::trim_start);
        lines.filter_map(|line| line.strip_prefix("# prints: ")).collect()
    }
}

fn blocks(page: &str) -> Vec<Block> {
    let text = fs::read_to_string(format!("{HOUSE}/{page}")).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let mut blocks = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let Some(kind) = lines[at].strip_prefix("```") else {
            at += 1;
            continue;
        };
        let length = lines[at + 1..].iter().position(|line| *line == "```").expect("it has an end");
        let end = at + 1 + length;
        let before = lines[..at].iter().rev().skip_while(|line| line.is_empty());
        let mut before: Vec<_> = before.take_while(|line| !line.is_empty()).copied().collect();
        before.reverse();
        let behind = lines[end + 1..].iter().skip_while(|line| line.is_empty());
        let behind: Vec<_> = behind.take_while(|line| !line.is_empty()).copied().collect();
        blocks.push(Block {
            page: page.into(),
            line: at + 1,
            kind: kind.into(),
            text: lines[at + 1..end].join("\n") + "\n",
            beside: [before.join(" "), behind.join(" ")],
        });
        at = end + 1;
    }
    blocks
}

/// A reader who does what a page says.
struct Reader {
    world: World,
}

impl Reader {
    fn new(world: World) -> Self {
        fs::create_dir(world.path("bin")).unwrap();
        let programs = PROGRAMS.iter().map(|name| world.path(name));
        let installed = INSTALLED.iter().map(|name| world.path("bin").join(name));
        for program in programs.chain(installed) {
            fs::write(&program, "#!/bin/sh\n").unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        }
        symlink(SEMRUN, world.path("bin/semrun")).unwrap();
        fs::write(world.path("api-key"), KEY).unwrap();
        fs::set_permissions(world.path("api-key"), fs::Permissions::from_mode(0o600)).unwrap();
        Self { world }
    }

    fn follows(&self, page: &str) {
        for block in blocks(page).into_iter().filter(|block| !block.is_excused()) {
            match block.kind.as_str() {
                "sh" => self.runs(&block.place(), &block.script(), &block.prints()),
                "cron" => self.waits_for_cron(&block),
                "toml" => self.configures(&block),
                "ini" => self.installs(&block),
                "yaml" => self.takes_the_steps(&block),
                _ => {}
            }
        }
    }

    fn path(&self) -> String {
        format!("{}:{}", self.world.path("bin").display(), std::env::var("PATH").unwrap())
    }

    fn runs(&self, place: &str, script: &str, prints: &[&str]) {
        self.tries(script, prints).unwrap_or_else(|what| panic!("{place}: {what}"));
    }

    fn tries(&self, script: &str, prints: &[&str]) -> Result<(), String> {
        let printed = self.world.path("printed");
        let file = File::create(&printed).unwrap();
        let mut shell = Command::new("sh");
        shell
            .args(["-eu", "-c", script])
            .current_dir(self.world.path(""))
            .env_clear()
            .envs(self.world.environment())
            .env("PATH", self.path())
            .env("HOME", self.world.path(""))
            .env("GITHUB_ENV", self.world.path("github-env"))
            .env("BUILD_URL", "https://ci.example.com/1")
            .env("CI_JOB_URL", "https://gitlab.example.com/group/project/-/jobs/1")
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .process_group(0);
        let status = Running::start(&mut shell).finish().status;
        let printed = fs::read_to_string(printed).unwrap();
        let shown = format!("{status}\n{script}-- printed\n{printed}-- expected {prints:#?}");
        let lines: Vec<_> = printed.lines().collect();
        if status.success() && fits(prints, &lines) { Ok(()) } else { Err(shown) }
    }

    /// Runs something with a configuration, in a place that does not need its secrets.
    fn configures(&self, block: &Block) {
        let file = self.world.path("block.toml");
        fs::write(&file, &block.text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let script =
            "semrun --config block.toml --backend \"file://$PWD/permits\" --name encode -- true";
        self.runs(&block.place(), script, &[]);
    }

    /// Runs the commands of a crontab as cron does, with next to no environment.
    fn waits_for_cron(&self, block: &Block) {
        let quoted = |text: &str| format!("'{text}'");
        let backend = self.world.environment();
        let backend = backend.map(|(name, value)| format!("{name}={}", quoted(&value))).join(" ");
        for line in block
            .text
            .lines()
            .filter(|line| line.starts_with(|c: char| c == '*' || c.is_ascii_digit()))
        {
            let command = line.splitn(6, ' ').last().unwrap();
            let command = self.here(command);
            assert!(!command.contains('%'), "cron makes a line break of a percent sign");
            let script = format!(
                "exec env -i {backend} HOME=/ SHELL=/bin/sh PATH=/usr/bin:/bin sh -c '{command}'"
            );
            self.runs(&block.place(), &script, &[]);
        }
    }

    /// A line with the paths of a proper installation, for this one.
    fn here(&self, line: &str) -> String {
        let directory = self.world.path("");
        let directory = directory.to_str().unwrap().trim_end_matches('/');
        line.replace("/usr/local/bin/semrun", SEMRUN)
            .replace("/usr/local/bin/", &format!("{directory}/"))
            .replace("%d/", &format!("{directory}/"))
            .replace("/run/secrets/semrun/", &format!("{directory}/"))
    }

    /// Has systemd read a unit, and runs its command. Its first line is its file.
    fn installs(&self, block: &Block) {
        let first = block.text.lines().next().unwrap();
        let name = first.strip_prefix("# /etc/systemd/system/").expect("its first line names it");
        let unit: PathBuf = self.world.path(name);
        fs::write(&unit, self.here(&block.text)).unwrap();
        let analyze =
            Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output();
        let output = analyze.expect("this test needs systemd-analyze; scripts/test installs it");
        let said = String::from_utf8_lossy(&output.stderr);
        // Of units that this machine has it may say what it likes.
        let said: Vec<_> = said.lines().filter(|line| line.contains(name)).collect();
        assert!(said.is_empty(), "{}: {said:#?}", block.place());
        for line in block.text.lines().filter_map(|line| line.strip_prefix("ExecStart=")) {
            // A server does not end.
            if !line.contains(" serve ") {
                self.runs(&block.place(), &self.here(line), &[]);
            }
        }
    }

    /// Runs the commands in a description of a CI job or of a pod.
    fn takes_the_steps(&self, block: &Block) {
        assert!(!block.text.contains('\t'), "{}: YAML has no tabs", block.place());
        for step in scripts(&block.text) {
            let script = format!(
                "if [ -e \"$GITHUB_ENV\" ]; then set -a; . \"$GITHUB_ENV\"; set +a; fi\n{}",
                self.here(&step)
            );
            self.runs(&block.place(), &script, &[]);
        }
    }
}

/// The scripts in a YAML document: what follows `run:`, the lists after `script:`, `before_script:`
/// and `after_script:`, and `command:` as a list in one line. Nothing else of YAML is understood
/// here.
fn scripts(yaml: &str) -> Vec<String> {
    let mut scripts: Vec<String> = Vec::new();
    let lines: Vec<_> = yaml.lines().collect();
    let depth = |line: &str| line.len() - line.trim_start().len();
    for (at, line) in lines.iter().enumerate() {
        let (key, value) = match line.trim_start().trim_start_matches("- ").split_once(':') {
            Some((key, value)) => (key, value.trim()),
            None => continue,
        };
        let deeper =
            lines[at + 1..].iter().take_while(|next| next.is_empty() || depth(next) > depth(line));
        match (key, value) {
            ("run", "|") => {
                scripts.push(deeper.map(|line| line.trim_start()).collect::<Vec<_>>().join("\n"));
            }
            ("run", command) => scripts.push(command.into()),
            ("script" | "before_script" | "after_script", "") => {
                let items = deeper.filter_map(|line| line.trim_start().strip_prefix("- "));
                scripts.push(items.collect::<Vec<_>>().join("\n"));
            }
            ("command", list) => {
                let words: Vec<String> = serde_json::from_str(list).expect("a list in one line");
                scripts.push(format!("'{}'", words.join("' '")));
            }
            _ => {}
        }
    }
    scripts
}

/// Whether lines are those expected, where `…` stands for any text, and alone for any lines.
fn fits(expected: &[&str], lines: &[&str]) -> bool {
    match (expected, lines) {
        ([], lines) => lines.is_empty(),
        (["…", rest @ ..], _) if fits(rest, lines) => true,
        (["…", ..], [_, others @ ..]) => fits(expected, others),
        ([first, rest @ ..], [line, others @ ..]) => is_like(first, line) && fits(rest, others),
        (_, []) => false,
    }
}

fn is_like(pattern: &str, line: &str) -> bool {
    match pattern.split_once('…') {
        None => pattern == line,
        Some((start, rest)) => line.strip_prefix(start).is_some_and(|behind| {
            behind
                .char_indices()
                .map(|(at, _)| at)
                .chain([behind.len()])
                .any(|at| is_like(rest, &behind[at..]))
        }),
    }
}

/// What docs/operations/github-actions.md says of a run that is cancelled, and of its two ways to
/// start semrun.
#[test]
fn a_cancelled_step_on_github_reaches_a_semrun_that_the_shell_became_and_no_other() {
    for (exec, reached) in [("exec ", true), ("", false)] {
        let world = in_redis();
        let command = "trap 'echo > heard' INT; trap '' TERM; echo $$ > running
            while :; do sleep 0.01; done";
        let step = format!("{exec}{SEMRUN} --name x -q -k 0.3 -- sh -c \"{command}\"\nexit 1\n");
        fs::write(world.path("step.sh"), step.replace("$$", "\\$\\$")).unwrap();
        let mut shell = Command::new("bash");
        shell.args(["-e", "step.sh"]).current_dir(world.path("")).envs(world.environment());
        let shell = Running::start(&mut shell);
        let command = pid_in(&world.path("running"));
        let _command = Leftover(command);

        shell.signal(Signal::INT);
        if reached {
            content(&world.path("heard"));
        }
        shell.signal(Signal::TERM);
        let status = shell.finish().status;
        if reached {
            assert_eq!(status.code(), Some(137));
            assert!(world.holders().is_empty() && !is_alive(command));
        } else {
            assert_eq!(status.signal(), Some(15), "the shell is gone, and nothing else");
            assert!(is_alive(command) && !world.path("heard").exists());
            kill_process(Pid::from_raw(world.holders()[0].cast_signed()).unwrap(), Signal::TERM)
                .unwrap();
            wait_until("the permit is given back", || world.holders().is_empty());
        }
    }
}

#[test]
fn a_harness_that_cannot_fail_proves_nothing() {
    let reader = Reader::new(World::on_this_machine());
    let fails = |text: &str| {
        let block = Block {
            page: "page".into(),
            line: 1,
            kind: "sh".into(),
            text: text.into(),
            beside: [String::new(), String::new()],
        };
        reader.tries(&block.script(), &block.prints()).is_err()
    };
    assert!(!fails("(exit 75) # exit 75\necho one 2 three\n# prints: one … three\n"));
    assert!(!fails("echo a; echo b; echo c\n# prints: …\n# prints: c\n"));
    assert!(fails("true # exit 75\n"), "it succeeds");
    assert!(fails("(exit 1) # exit 75\n"), "another code");
    assert!(fails("(exit 75)\ntrue\n"), "a code that is not expected");
    assert!(fails("echo one\n"), "output that is not expected");
    assert!(fails("echo one\n# prints: two\n"), "other output");
    assert!(fails("true\n# prints: two\n"), "no output");
    assert!(fails("semrun --name x -- false\n"), "a failure of the command");
}

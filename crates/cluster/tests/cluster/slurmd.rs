//! A Slurm of its own for one test: munge, a controller and three hosts, all on this machine.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::harness::{kill, until};

const TOOLS: [&str; 4] = ["munged", "slurmctld", "slurmd", "sbatch"];

pub struct Slurm {
    pub folder: tempfile::TempDir,
    daemons: Vec<Child>,
}

/// Whether the tests of this module can be run here.
pub fn have_slurm() -> bool {
    let found =
        |tool: &&str| ["/usr/sbin", "/usr/bin"].iter().any(|at| PathBuf::from(at).join(tool).exists());
    let missing: Vec<&str> = TOOLS.into_iter().filter(|tool| !found(tool)).collect();
    if !missing.is_empty() {
        let names = missing.join(", ");
        assert!(
            std::env::var_os("LYCEUM_REQUIRE_TOOLS").is_none(),
            "{names} are missing: install `munge` and `slurm-wlm`"
        );
        eprintln!("skipped: {names} are missing (Debian: munge, slurm-wlm)");
    }
    missing.is_empty()
}

impl Slurm {
    pub async fn start() -> Slurm {
        let mut slurm = Slurm { folder: tempfile::tempdir().unwrap(), daemons: Vec::new() };
        let path = |name: &str| slurm.folder.path().join(name);
        // munge's socket is for all users of a machine.
        fs::set_permissions(slurm.folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let key: Vec<u8> = (0..128_u32).map(|at| (at * 37 + std::process::id()) as u8).collect();
        fs::write(path("key"), key).unwrap();
        fs::set_permissions(path("key"), fs::Permissions::from_mode(0o600)).unwrap();
        for name in ["state", "spool", "spool/n1", "spool/n2", "spool/n3"] {
            fs::create_dir(path(name)).unwrap();
        }
        // Below the ports that the system gives to others meanwhile.
        let mut free = (20_000 + std::process::id() as u16 % 8_000..)
            .filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
        let ports: Vec<u16> = free.by_ref().take(4).collect();
        let user = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
        let (user, at) = (user.trim(), slurm.folder.path().display());
        let mut text = format!(
            "ClusterName=test\nSlurmctldHost=localhost(127.0.0.1)\nSlurmctldPort={}\nSlurmUser={user}\nSlurmdUser={user}\n\
             AuthType=auth/munge\nAuthInfo=socket={at}/munge.socket\nCredType=cred/munge\nStateSaveLocation={at}/state\n\
             SlurmdSpoolDir={at}/spool/%n\nSlurmctldPidFile={at}/slurmctld.pid\nSlurmdPidFile={at}/slurmd-%n.pid\n\
             ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nSwitchType=switch/none\nMpiDefault=none\n\
             JobAcctGatherType=jobacct_gather/none\nSelectType=select/cons_tres\nSelectTypeParameters=CR_Core\n\
             SchedulerParameters=batch_sched_delay=0,sched_min_interval=0\nReturnToService=2\nKillWait=2\n\
             SlurmdParameters=config_overrides\n",
            ports[0]
        );
        for (host, port) in ["n1", "n2", "n3"].iter().zip(&ports[1..]) {
            text +=
                &format!("NodeName={host} NodeAddr=127.0.0.1 NodeHostname=localhost Port={port} CPUs=2\n");
        }
        text += "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n";
        fs::write(path("slurm.conf"), text).unwrap();

        slurm.daemon(
            "munged",
            &[
                "--foreground".into(),
                format!("--key-file={at}/key"),
                format!("--socket={at}/munge.socket"),
                format!("--pid-file={at}/munge.pid"),
                format!("--log-file={at}/munge.log"),
                format!("--seed-file={at}/munge.seed"),
            ],
        );
        let socket = slurm.folder.path().join("munge.socket");
        until("munge listens", || socket.exists()).await;
        slurm.daemon("slurmctld", &["-D".into()]);
        for host in ["n1", "n2", "n3"] {
            slurm.daemon("slurmd", &["-D".into(), "-N".into(), host.into()]);
        }
        until("all hosts are there", || slurm.call("sinfo", &["-h", "-o", "%T %D"]).trim() == "idle 3").await;
        slurm
    }

    fn daemon(&mut self, program: &str, arguments: &[String]) {
        let log = self.folder.path().join(format!("{program}-{}.log", self.daemons.len()));
        let log = fs::File::create(log).unwrap();
        let mut command = self.command(&format!("/usr/sbin/{program}"));
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.daemons.push(command.spawn().unwrap());
    }

    /// A command that finds this Slurm.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("SLURM_CONF", self.folder.path().join("slurm.conf"));
        command
    }

    /// What one of Slurm's commands says.
    pub fn call(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Slurm {
    /// What a failed test leaves is ended before those who could end it.
    fn drop(&mut self) {
        let jobs = self.call("squeue", &["-h", "-o", "%i"]);
        for job in jobs.split_whitespace() {
            self.call("scancel", &[job]);
        }
        let began = std::time::Instant::now();
        while !self.call("squeue", &["-h"]).trim().is_empty() && began.elapsed().as_secs() < 20 {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        for daemon in self.daemons.iter_mut().rev() {
            kill(daemon.id(), Signal::TERM);
            let _ = daemon.wait();
        }
    }
}

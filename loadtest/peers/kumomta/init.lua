-- KumoMTA as `compare` runs it, the fastest safe settings that its manual tells. Written from the
-- manual; where it was not there to be run, the report says "not present".
local kumo = require 'kumo'

kumo.on('init', function()
  -- Its manual recommends RocksDB for speed. `flush` syncs each write, and is off unless it is asked
  -- for: without it a 250 promises nothing.
  for _, name in ipairs { 'data', 'meta' } do
    kumo.define_spool {
      name = name,
      path = '@spool@/' .. name,
      kind = 'RocksDB',
      flush = true,
    }
  end
  -- The others keep a mail log as well.
  kumo.configure_local_logs { log_dir = '@folder@/log' }
  kumo.start_esmtp_listener {
    listen = '127.0.0.1:@port@',
    hostname = 'mail.example.org',
    -- The load comes from this machine.
    relay_hosts = { '127.0.0.0/8' },
    -- Messages are spooled before the 250, not later.
    deferred_spool = false,
  }
end)

-- All mail goes to the sink, on this machine. Where only acceptance is measured nobody listens there.
kumo.on('get_queue_config', function()
  return kumo.make_queue_config { protocol = { smtp = { mx_list = { '[127.0.0.1]' } } } }
end)

kumo.on('get_egress_path_config', function()
  return kumo.make_egress_path {
    smtp_port = @sink@,
    -- Loopback is prohibited by default.
    prohibited_hosts = {},
    -- The sink has no TLS; do not ask for it.
    enable_tls = 'Disabled',
    -- As many connections as to the others, and none is closed early.
    connection_limit = 100,
    max_deliveries_per_connection = 1000,
  }
end)

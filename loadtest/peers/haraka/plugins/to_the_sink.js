'use strict';

// Accepts all mail of this machine and relays it to the sink.

exports.register = function () {
    this.register_hook('lookup_rdns', 'no_name');
    this.register_hook('connect', 'relay');
    this.register_hook('rcpt', 'take');
    this.register_hook('get_mx', 'sink');
};

// No DNS look-up.
exports.no_name = (next) => next(OK, 'localhost');

exports.relay = (next, connection) => {
    connection.relaying = true;
    next();
};

exports.take = (next) => next(OK);

exports.sink = (next) => next(OK, { exchange: '127.0.0.1', port: @sink@, priority: 0 });
